"""Weights of I2VGen-XL <-> models/unet/i2vgen.py.

Source: huggingface/diffusers (models/unets/unet_i2vgen_xl.py).
"""

import dataclasses
import functools

import jax.numpy as jnp

from vdm_jax.conditioning import Conditioning, Tokens
from vdm_jax.models.unet import unet3d
from vdm_jax.models.unet.i2vgen import I2VGenXL
from vdm_jax.pretrained.tables.table import Table, init_shapes, input_width
from vdm_jax.pretrained.tables.unet import blocks, unet_configs, unet_diffusers
from vdm_jax.pretrained.tables.unet import layout as layout_lib

CLASS = "I2VGenXLUNet"
INSIDE = "UNet3DConditionModel"  # the class of the U-Net in it
PERCEPTRON = {"in": "0", "out": "2"}
PLACES = (
  ("unet/embed/fps", "fps_embedding", PERCEPTRON),
  ("embedding", "context_embedding", PERCEPTRON),
  (
    "context",
    "image_latents_context_embedding",
    {"conv1": "0", "conv2": "3", "conv3": "5"},
  ),
  ("beside", "image_latents_proj_in", {"conv1": "0", "conv2": "2", "conv3": "4"}),
  (
    "beside",
    "image_latents_temporal_encoder",
    {"norm": "norm1", "mlp_in": "ff.net.0.proj", "mlp_out": "ff.net.2"},
  ),
  ("beside/attention", "image_latents_temporal_encoder.attn1", dict(blocks.ATTENTION)),
)


def _from_config(config, shapes):
  head = config.get("num_attention_heads") or config.get("attention_head_dim")
  own = {"_class_name": INSIDE, "attention_head_dim": head, "num_attention_heads": None}
  architecture = unet_configs.from_config(config | own, shapes).config
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


def _rules(module):
  layout = unet_diffusers.name_layout_of(module.config)
  inside = layout_lib.name_prefixes(module.config, layout)
  inside = [(f"unet/{ours}", published, names) for ours, published, names in inside]
  spec = _abstract_params(module, {})
  return layout_lib.rules_from_prefixes(spec, [*inside, *PLACES], layout.pattern_of)


def _abstract_params(module, shapes):
  return _spec(
    module,
    input_width(shapes, r"^image_latents_proj_in\.0\.weight$", 4),
    input_width(shapes, r"^context_embedding\.0\.weight$", 1),
  )


@functools.lru_cache(maxsize=16)
def _spec(module, channels, width):
  tokens = Tokens(jnp.zeros((1, 1, width)), jnp.ones((1, 1), bool))
  size = 2 ** (len(module.config.channels) - 1)
  x = jnp.zeros((1, 1, size, size, channels))
  cond = Conditioning(
    tokens={"text": tokens, "image": tokens},
    channels={"image": x},
    vectors={"fps": jnp.zeros(1)},
  )
  return init_shapes(module, x, jnp.zeros(1), cond)


TABLE = Table(
  module_class=I2VGenXL,
  classes=(CLASS,),
  from_config=_from_config,
  to_config=_to_config,
  rules=_rules,
  abstract_params=_abstract_params,
)
