"""Weights of transformers' CLIP vision models <-> encoders/clip_image.py.

Published files name all but the projection "vision_model.*", and so do we. Since its
version 5, transformers writes CLIPVisionModel without that prefix, and reads both.

Source: huggingface/transformers (models/clip/modeling_clip.py).
"""

import jax.numpy as jnp

from vdm_jax.encoders.clip_image import ClipImage
from vdm_jax.layers import activations
from vdm_jax.pretrained.tables.encoders import encoder

CLASSES = ("CLIPVisionModel", "CLIPVisionModelWithProjection")
WANTED = "ClipImage(...)"
UNREAD = ("vision_model.embeddings.position_ids",)
RENAMES = (
  (r"^(embeddings|encoder|pre_layrnorm|post_layernorm)\.", r"vision_model.\1."),
)

# (their field, our field, the default of their class)
FIELDS = (
  ("num_hidden_layers", "depth", 12),
  ("hidden_size", "width", 768),
  ("num_attention_heads", "num_heads", 12),
  ("intermediate_size", "hidden", 3072),
  ("image_size", "size", 224),
  ("patch_size", "patch", 32),
  ("num_channels", "channels", 3),
  ("hidden_act", "activation", "quick_gelu"),
  ("layer_norm_eps", "epsilon", 1e-5),
)
SUPPORTED = {"hidden_act": activations.ACTIVATIONS}


def fits(module):
  """Whether this table is the module's."""
  return isinstance(module, ClipImage)


def module(config, found):
  """The ClipImage that a config.json describes, without `skip`."""
  del found
  told, supported = encoder.numbers(config, ["image_size", "patch_size"])
  encoder.refuse(told, supported | SUPPORTED)
  projected = CLASSES[1] in (config.get("architectures") or ())
  projection = config.get("projection_dim", 512) if projected else None
  return ClipImage(projection=projection, **encoder.read(config, FIELDS))


def config(module, params):
  """What their config.json says of this module."""
  del params
  out = {
    "architectures": [CLASSES[bool(module.projection)]],
    "model_type": "clip_vision_model",
    **encoder.write(module, FIELDS),
  }
  return out | ({"projection_dim": module.projection} if module.projection else {})


def rules(module):
  """[(their name, our name, pattern)]; a tuple of their names is stacked first."""
  root = "vision_model.embeddings"
  out = [
    (f"{root}.class_embedding", "class", "d -> d"),
    (f"{root}.position_embedding.weight", "position/table", "rows d -> rows d"),
    (f"{root}.patch_embedding.weight", "patchify/kernel", "o i p q -> (p q i) o"),
  ]
  out += encoder.norm_rules("vision_model.pre_layrnorm", "norm_in")
  out += encoder.norm_rules("vision_model.post_layernorm", "norm_out")
  if module.projection:
    out.append(("visual_projection.weight", "projection/kernel", "o i -> i o"))
  return out + encoder.clip_rules("vision_model.encoder.layers.{}.", module.depth)


def axes(module):
  """Sizes of the axes that patterns cannot tell from a shape."""
  heads = {"three": 3, "n": module.num_heads}
  return heads | {"p": module.patch, "q": module.patch}


def shapes(module, found):
  """The module's parameters as ShapeDtypeStructs, boxed with their axis names."""
  del found
  size = module.size
  return encoder.shapes(module, jnp.zeros((1, size, size, module.channels)))
