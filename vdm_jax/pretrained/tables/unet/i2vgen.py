"""Weights of I2VGen-XL <-> models/unet/i2vgen.py.

Source: huggingface/diffusers (models/unets/unet_i2vgen_xl.py).
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from vdm_jax.conditioning import Conditioning, Tokens
from vdm_jax.models.unet import unet3d
from vdm_jax.models.unet.i2vgen import I2VGenXL
from vdm_jax.pretrained.tables.unet import unet_configs, unet_diffusers, unet_names

CLASSES = ("I2VGenXLUNet",)
WANTED = "I2VGenXL(architectures.videocrafter2())"
INSIDE = "UNet3DConditionModel"  # the class of the U-Net in it
PERCEPTRON = {"in": "0", "out": "2"}
AROUND = (
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
  ("beside/attention", "image_latents_temporal_encoder.attn1", unet_names.ATTENTION),
)

axes = unet_diffusers.axes


def fits(module):
  """Whether this table is the module's."""
  return isinstance(module, I2VGenXL)


def module(config, found):
  """The module that their config.json describes."""
  head = config.get("num_attention_heads") or config.get("attention_head_dim")
  own = {"_class_name": INSIDE, "attention_head_dim": head, "num_attention_heads": None}
  architecture = unet_configs.read(config | own, found).config
  return I2VGenXL(dataclasses.replace(architecture, vectors=("fps",)))


def config(module, params):
  """What their config.json says of this module."""
  c = module.config
  if c.vectors != ("fps",) or c.epsilon != 1e-5:
    raise ValueError(
      f"{CLASSES[0]} has vectors=('fps',) and epsilon=1e-5; this one {c.vectors} and "
      f"{c.epsilon}."
    )
  plain = unet3d.UNet3D(dataclasses.replace(c, vectors=()))
  out = unet_configs.write(plain, params["unet"])
  out.pop("norm_eps")
  doubled = out.pop("in_channels")
  return out | {"_class_name": CLASSES[0], "in_channels": doubled // 2}


def rules(module):
  """[(their name, our name, pattern)]."""
  inside = unet_diffusers.places(module.config)
  inside = [(f"unet/{ours}", theirs, names) for ours, theirs, names in inside]
  around = [(ours, theirs, dict(names)) for ours, theirs, names in AROUND]
  spec = unet_names.flat(shapes(module, {}))
  patterns = unet_diffusers.patterns(module.config)
  return unet_names.rules(spec, inside + around, patterns)


def shapes(module, found):
  """The module's parameters as ShapeDtypeStructs, boxed with their axis names."""
  return _spec(
    module,
    unet_names.width(found, r"^image_latents_proj_in\.0\.weight$", 4),
    unet_names.width(found, r"^context_embedding\.0\.weight$", 1),
  )


@functools.lru_cache(maxsize=16)
def _spec(module, channels, width):
  told = Tokens(jnp.zeros((1, 1, width)), jnp.ones((1, 1), bool))
  size = 2 ** (len(module.config.channels) - 1)
  x = jnp.zeros((1, 1, size, size, channels))
  cond = Conditioning(
    tokens={"text": told, "image": told},
    channels={"image": x},
    vectors={"fps": jnp.zeros(1)},
  )
  init = lambda key: module.init(key, x, jnp.zeros(1), cond)["params"]
  return jax.eval_shape(init, jax.random.key(0))
