"""Weights of transformers' CLIP text and vision models <-> clip_text.py, clip_image.py.

Published files name all but the projection "text_model.*" or "vision_model.*", and so
do we. Since its version 5, transformers writes CLIPTextModel and CLIPVisionModel
without that prefix, and reads both.

Source: huggingface/transformers (models/clip/modeling_clip.py).
"""

import functools

import jax.numpy as jnp

from vdm_jax.encoders.clip_image import ClipImage
from vdm_jax.encoders.clip_text import ClipText
from vdm_jax.layers import activations
from vdm_jax.pretrained.config_json import require_supported
from vdm_jax.pretrained.tables.encoders import encoder
from vdm_jax.pretrained.tables.table import Table, init_shapes

QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
BLOCK = {
  "attention/out": "self_attn.out_proj",
  "mlp_in": "mlp.fc1",
  "mlp_out": "mlp.fc2",
  "attention_norm": "layer_norm1",
  "mlp_norm": "layer_norm2",
}


def _fields(width, heads, hidden):
  """(published field, our field, the default of their class) of both models."""
  return (
    ("num_hidden_layers", "depth", 12),
    ("hidden_size", "width", width),
    ("num_attention_heads", "num_heads", heads),
    ("intermediate_size", "hidden", hidden),
    ("hidden_act", "activation", "quick_gelu"),
    ("layer_norm_eps", "epsilon", 1e-5),
  )


TEXT_FIELDS = (
  *_fields(512, 8, 2048),
  ("vocab_size", "vocabulary", 49408),
  ("max_position_embeddings", "length", 77),
  ("eos_token_id", "end", 49407),
)
IMAGE_FIELDS = (
  *_fields(768, 12, 3072),
  ("image_size", "size", 224),
  ("patch_size", "patch", 32),
  ("num_channels", "channels", 3),
)


def _from_config(config, shapes, *, module_class, classes, fields, whole):
  """The module without `skip`; `whole`: fields that must be whole numbers."""
  del shapes
  wrong = [
    f"{k}={config[k]!r}; supported: a whole number"
    for k in whole
    if not str(config.get(k, 0)).isdecimal()
  ]
  require_supported(config, {"hidden_act": activations.ACTIVATIONS}, classes[0], wrong)
  projected = classes[1] in (config.get("architectures") or ())
  projection = config.get("projection_dim", 512) if projected else None
  return module_class(
    projection=projection, **encoder.fields_from_config(config, fields)
  )


def _to_config(module, params, *, classes, fields, model_type):
  del params
  out = {
    "architectures": [classes[bool(module.projection)]],
    "model_type": model_type,
    **encoder.config_from_module(module, fields),
  }
  return out | ({"projection_dim": module.projection} if module.projection else {})


def _text_rules(module):
  out = [
    (f"text_model.embeddings.{name}_embedding.weight", f"{name}/table", "r d -> r d")
    for name in ("token", "position")
  ]
  out += encoder.norm_rules("text_model.final_layer_norm", "norm")
  return out + _shared_rules(module, "text")


def _image_rules(module):
  root = "vision_model.embeddings"
  out = [
    (f"{root}.class_embedding", "class", "d -> d"),
    (f"{root}.position_embedding.weight", "position/table", "rows d -> rows d"),
    (f"{root}.patch_embedding.weight", "patchify/kernel", "o i p q -> (p q i) o"),
  ]
  out += encoder.norm_rules("vision_model.pre_layrnorm", "norm_in")
  out += encoder.norm_rules("vision_model.post_layernorm", "norm_out")
  return out + _shared_rules(module, "vision", "visual")


def _shared_rules(module, kind, projection="text"):
  layers = f"{kind}_model.encoder.layers.{{}}."
  out = encoder.block_rules(layers, module.depth, QKV, BLOCK)
  if module.projection:
    name = f"{projection}_projection.weight"
    out.append((name, "projection/kernel", "o i -> i o"))
  return out


def _image_axes(module):
  return encoder.qkv_axis_sizes(module) | {"p": module.patch, "q": module.patch}


def _image_params(module, shapes):
  del shapes
  return init_shapes(module, jnp.zeros((1, module.size, module.size, module.channels)))


def _table(module_class, kind, fields, whole, parts, **functions):
  """The Table of CLIP{Text, Vision}Model; `parts`: names of old files' top modules."""
  classes = tuple(f"CLIP{kind}Model{end}" for end in ("", "WithProjection"))
  kind = kind.lower()
  shared = dict(classes=classes, fields=fields)
  return Table(
    module_class=module_class,
    classes=classes,
    from_config=functools.partial(
      _from_config, module_class=module_class, whole=whole, **shared
    ),
    to_config=functools.partial(_to_config, model_type=f"clip_{kind}_model", **shared),
    renames=((rf"^({parts})\.", rf"{kind}_model.\1."),),
    ignored=(f"{kind}_model.embeddings.position_ids",),
    **functions,
  )


TEXT = _table(
  ClipText,
  "Text",
  TEXT_FIELDS,
  ("eos_token_id",),
  "embeddings|encoder|final_layer_norm",
  rules=_text_rules,
  axis_sizes=encoder.qkv_axis_sizes,
  abstract_params=encoder.abstract_token_params,
)
IMAGE = _table(
  ClipImage,
  "Vision",
  IMAGE_FIELDS,
  ("image_size", "patch_size"),
  "embeddings|encoder|pre_layrnorm|post_layernorm",
  rules=_image_rules,
  axis_sizes=_image_axes,
  abstract_params=_image_params,
)
