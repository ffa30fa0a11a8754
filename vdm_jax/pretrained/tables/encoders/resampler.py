"""Weights of VideoCrafter 1's Resampler, IP-Adapter's too <-> encoders/resampler.py.

Checkpoints name them "image_proj_model.*", next to the U-Net's; IP-Adapter's files,
"image_proj.*". There is no config: the module must have the fields of the weights.

Source: AILab-CVC/VideoCrafter (lvdm/modules/encoders/ip_resampler.py).
"""

import jax.numpy as jnp

from vdm_jax.encoders.resampler import Resampler
from vdm_jax.pretrained.tables.encoders import encoder
from vdm_jax.pretrained.tables.table import Table, init_shapes

# {our name: published name} in one layer.
NORMS = {"token_norm": "0.norm1", "query_norm": "0.norm2", "mlp_norm": "1.0"}
LINEARS = {"q": "0.to_q", "out": "0.to_out", "mlp_in": "1.1", "mlp_out": "1.3"}


def _rules(module):
  each = lambda name: tuple(f"layers.{i}.{name}" for i in range(module.depth))
  out = [("latents", "queries", "1 q d -> q d")]
  for name in ("proj_in", "proj_out"):
    out += encoder.linear_rules(name, name)
  out += encoder.norm_rules("norm_out", "norm_out")
  for ours, published in NORMS.items():
    out += encoder.norm_rules(each(published), f"blocks/{ours}", "l ")
  for ours, published in LINEARS.items():
    names = each(f"{published}.weight")
    out.append((names, f"blocks/{ours}/kernel", "l o i -> l i o"))
  kv = "l (two n d) i -> l i (n two d)"
  return [*out, (each("0.to_kv.weight"), "blocks/kv/kernel", kv)]


def _axis_sizes(module):
  return {"two": 2, "n": module.num_heads}


def _abstract_params(module, shapes):
  del shapes
  return init_shapes(module, jnp.zeros((1, 1, module.embedding)))


TABLE = Table(
  module_class=Resampler,
  rules=_rules,
  prefix=r"image_proj(_model)?\.",
  axis_sizes=_axis_sizes,
  abstract_params=_abstract_params,
)
