"""Weights of transformers' CLIP text and vision models <-> clip_text.py, clip_image.py.

Published files name all but the projection "text_model.*" or "vision_model.*", and so
do we. Since its version 5, transformers writes CLIPTextModel and CLIPVisionModel
without that prefix, and reads both.

Source: huggingface/transformers (models/clip/modeling_clip.py).
"""

import numpy as np

from vdm_jax.encoders.clip_image import ClipImage
from vdm_jax.encoders.clip_text import ClipText
from vdm_jax.layers import activations
from vdm_jax.pretrained.config_json import require_supported
from vdm_jax.pretrained.tables.encoders import encoder
from vdm_jax.pretrained.tables.table import Table, stacked_names

TEXT_NAMES = {
  "token": "text_model.embeddings.token_embedding",
  "position": "text_model.embeddings.position_embedding",
  "norm": "text_model.final_layer_norm",
  "projection": "text_projection",
}
IMAGE_NAMES = {
  "class": "vision_model.embeddings.class_embedding",
  "position": "vision_model.embeddings.position_embedding",
  "patchify": "vision_model.embeddings.patch_embedding",
  "norm_in": "vision_model.pre_layrnorm",
  "norm_out": "vision_model.post_layernorm",
  "projection": "visual_projection",
}
BLOCK = {
  "attention/qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
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


def _table(module_class, kind, fields, names, whole, parts, **functions):
  """The Table of CLIP{Text, Vision}Model, which leaves `skip` as it is by default.

  `whole`: fields that must be whole numbers; `parts`: names of old files' top modules.
  """
  classes = tuple(f"CLIP{kind}Model{end}" for end in ("", "WithProjection"))
  kind = kind.lower()

  def layer_names(module):
    prefix = f"{kind}_model.encoder.layers"
    return names | stacked_names(prefix, "blocks", BLOCK, range(module.depth))

  def from_config(config):
    wrong = [
      f"{k}={config[k]!r}; supported: a whole number"
      for k in whole
      if not str(config.get(k, 0)).isdecimal()
    ]
    require_supported(
      config, {"hidden_act": activations.ACTIVATIONS}, classes[0], wrong
    )
    projected = classes[1] in (config.get("architectures") or ())
    projection = config.get("projection_dim", 512) if projected else None
    own = encoder.fields_from_config(config, fields)
    return module_class(projection=projection, **own)

  def to_config(module, params):
    del params
    out = {
      "architectures": [classes[bool(module.projection)]],
      "model_type": f"clip_{kind}_model",
      **encoder.config_from_module(module, fields),
    }
    return out | ({"projection_dim": module.projection} if module.projection else {})

  return Table(
    module_class=module_class,
    names=layer_names,
    classes=classes,
    from_config=from_config,
    to_config=to_config,
    renames=((rf"^({parts})\.", rf"{kind}_model.\1."),),
    ignored=(f"{kind}_model.embeddings.position_ids",),
    **functions,
  )


TEXT = _table(
  ClipText,
  "Text",
  TEXT_FIELDS,
  TEXT_NAMES,
  ("eos_token_id",),
  "embeddings|encoder|final_layer_norm",
  inputs=encoder.token_init_inputs,
)
IMAGE = _table(
  ClipImage,
  "Vision",
  IMAGE_FIELDS,
  IMAGE_NAMES,
  ("image_size", "patch_size"),
  "embeddings|encoder|pre_layrnorm|post_layernorm",
  inputs=lambda module: (np.zeros((1, *(module.size,) * 2, module.channels)),),
  patterns=lambda module: {"^patchify/kernel": "o i p q -> (p q i) o"},
)
