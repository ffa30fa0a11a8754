"""Weights of I2VGen-XL <-> models/unet/i2vgen.py.

Source: huggingface/diffusers (models/unets/unet_i2vgen_xl.py).
"""

import dataclasses

from vdm_jax.models.unet import unet3d
from vdm_jax.models.unet.i2vgen import I2VGenXL
from vdm_jax.pretrained.tables.table import Table, prefix_names
from vdm_jax.pretrained.tables.unet import blocks, unet_configs, unet_diffusers
from vdm_jax.pretrained.tables.unet import layout as layout_lib

CLASS = "I2VGenXLUNet"
INSIDE = "UNet3DConditionModel"  # the class of the U-Net in it
NAMES = {
  "unet/embed/fps/in": "fps_embedding.0",
  "unet/embed/fps/out": "fps_embedding.2",
  "embedding/in": "context_embedding.0",
  "embedding/out": "context_embedding.2",
  "context/conv1": "image_latents_context_embedding.0",
  "context/conv2": "image_latents_context_embedding.3",
  "context/conv3": "image_latents_context_embedding.5",
  "beside/conv1": "image_latents_proj_in.0",
  "beside/conv2": "image_latents_proj_in.2",
  "beside/conv3": "image_latents_proj_in.4",
  "beside/norm": "image_latents_temporal_encoder.norm1",
  "beside/mlp_in": "image_latents_temporal_encoder.ff.net.0.proj",
  "beside/mlp_out": "image_latents_temporal_encoder.ff.net.2",
  **prefix_names(
    "beside/attention",
    "image_latents_temporal_encoder.attn1",
    dict(blocks.ATTENTION),
  ),
}


def _from_config(config):
  head = config.get("attention_head_dim", 64)  # num_attention_heads is not read there
  own = {"_class_name": INSIDE, "attention_head_dim": head, "num_attention_heads": None}
  architecture = unet_configs.from_config(config | own).config
  return I2VGenXL(dataclasses.replace(architecture, vectors=("fps",)))


def _to_config(module, params):
  c = module.config
  if c.vectors != ("fps",) or c.epsilon != 1e-5:
    raise ValueError(
      f"{CLASS} has vectors=('fps',) and epsilon=1e-5; this one {c.vectors} and "
      f"{c.epsilon}."
    )
  plain = unet3d.UNet3D(dataclasses.replace(c, vectors=()))
  out = unet_configs.to_config(plain, params["unet"])
  out.pop("norm_eps")
  doubled = out.pop("in_channels")
  return out | {"_class_name": CLASS, "in_channels": doubled // 2}


def _names(module):
  return prefix_names("unet", "", unet_diffusers.published_layer_names(module)) | NAMES


def _inputs(module, channels, text):
  x, t, cond = layout_lib.init_inputs(module, channels, text, image=text)
  cond.channels["image"] = x
  return x, t, cond


TABLE = Table(
  module_class=I2VGenXL,
  names=_names,
  inputs=_inputs,
  widths={
    "channels": (r"^image_latents_proj_in\.0\.weight$", 4),
    "text": (r"^context_embedding\.0\.weight$", 1),
  },
  patterns=unet_diffusers.einops_patterns,
  classes=(CLASS,),
  from_config=_from_config,
  to_config=_to_config,
)
