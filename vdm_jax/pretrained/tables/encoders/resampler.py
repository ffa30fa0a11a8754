"""Weights of VideoCrafter 1's Resampler, IP-Adapter's too <-> encoders/resampler.py.

Checkpoints name them "image_proj_model.*", beside the U-Net's; IP-Adapter's files,
"image_proj.*". There is no config: the module must have the fields of the weights.

Source: AILab-CVC/VideoCrafter (lvdm/modules/encoders/ip_resampler.py).
"""

import jax.numpy as jnp

from vdm_jax.encoders.resampler import Resampler
from vdm_jax.pretrained.tables.encoders import encoder

CLASSES = ()  # their files have no config
WANTED = "Resampler(...)"
PART = r"image_proj(_model)?\."

# ours -> theirs, of one layer
NORMS = {"token_norm": "0.norm1", "query_norm": "0.norm2", "mlp_norm": "1.0"}
LINEARS = {"q": "0.to_q", "out": "0.to_out", "mlp_in": "1.1", "mlp_out": "1.3"}


def fits(module):
  """Whether this table is the module's."""
  return isinstance(module, Resampler)


def rules(module):
  """[(their name, our name, pattern)]; a tuple of their names is stacked first."""
  each = lambda name: tuple(f"layers.{i}.{name}" for i in range(module.depth))
  out = [("latents", "queries", "1 q d -> q d")]
  for name in ("proj_in", "proj_out"):
    out += encoder.linear_rules(name, name)
  out += encoder.norm_rules("norm_out", "norm_out")
  for ours, theirs in NORMS.items():
    out += encoder.norm_rules(each(theirs), f"blocks/{ours}", "l ")
  for ours, theirs in LINEARS.items():
    names = each(f"{theirs}.weight")
    out.append((names, f"blocks/{ours}/kernel", "l o i -> l i o"))
  kv = "l (two n d) i -> l i (n two d)"
  return [*out, (each("0.to_kv.weight"), "blocks/kv/kernel", kv)]


def axes(module):
  """Sizes of the axes that patterns cannot tell from a shape."""
  return {"two": 2, "n": module.num_heads}


def shapes(module, found):
  """The module's parameters as ShapeDtypeStructs, boxed with their axis names."""
  del found
  return encoder.shapes(module, jnp.zeros((1, 1, module.embedding)))
