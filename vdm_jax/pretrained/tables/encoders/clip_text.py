"""Weights of transformers' CLIP text models <-> encoders/clip_text.py.

Published files name all but the projection "text_model.*", and so do we. Since its
version 5, transformers writes CLIPTextModel without that prefix, and reads both.

Source: huggingface/transformers (models/clip/modeling_clip.py).
"""

import jax.numpy as jnp

from vdm_jax.encoders.clip_text import ClipText
from vdm_jax.layers import activations
from vdm_jax.pretrained.tables.encoders import encoder

CLASSES = ("CLIPTextModel", "CLIPTextModelWithProjection")
WANTED = "ClipText(...)"
UNREAD = ("text_model.embeddings.position_ids",)
RENAMES = ((r"^(embeddings|encoder|final_layer_norm)\.", r"text_model.\1."),)

# (their field, our field, the default of their class)
FIELDS = (
  ("num_hidden_layers", "depth", 12),
  ("hidden_size", "width", 512),
  ("num_attention_heads", "num_heads", 8),
  ("intermediate_size", "hidden", 2048),
  ("vocab_size", "vocabulary", 49408),
  ("max_position_embeddings", "length", 77),
  ("hidden_act", "activation", "quick_gelu"),
  ("layer_norm_eps", "epsilon", 1e-5),
  ("eos_token_id", "end", 49407),
)
SUPPORTED = {"hidden_act": activations.ACTIVATIONS}


def fits(module):
  """Whether this table is the module's."""
  return isinstance(module, ClipText)


def module(config, found):
  """The ClipText that a config.json describes, without `skip`."""
  del found
  told, supported = encoder.numbers(config, ["eos_token_id"])
  encoder.refuse(told, supported | SUPPORTED)
  projected = CLASSES[1] in (config.get("architectures") or ())
  projection = config.get("projection_dim", 512) if projected else None
  return ClipText(projection=projection, **encoder.read(config, FIELDS))


def config(module, params):
  """What their config.json says of this module."""
  del params
  out = {
    "architectures": [CLASSES[bool(module.projection)]],
    "model_type": "clip_text_model",
    **encoder.write(module, FIELDS),
  }
  return out | ({"projection_dim": module.projection} if module.projection else {})


def rules(module):
  """[(their name, our name, pattern)]; a tuple of their names is stacked first."""
  out = [
    (f"text_model.embeddings.{name}_embedding.weight", f"{name}/table", "r d -> r d")
    for name in ("token", "position")
  ]
  out += encoder.norm_rules("text_model.final_layer_norm", "norm")
  if module.projection:
    out.append(("text_projection.weight", "projection/kernel", "o i -> i o"))
  return out + encoder.clip_rules("text_model.encoder.layers.{}.", module.depth)


def axes(module):
  """Sizes of the axes that patterns cannot tell from a shape."""
  return {"three": 3, "n": module.num_heads}


def shapes(module, found):
  """The module's parameters as ShapeDtypeStructs, boxed with their axis names."""
  del found
  return encoder.shapes(module, jnp.zeros((1, 1), jnp.int32))
