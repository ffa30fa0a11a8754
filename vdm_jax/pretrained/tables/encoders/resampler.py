"""Weights of VideoCrafter 1's Resampler, IP-Adapter's too <-> encoders/resampler.py.

Checkpoints name them "image_proj_model.*", next to the U-Net's; IP-Adapter's files,
"image_proj.*". There is no config: the module must have the fields of the weights.

Source: AILab-CVC/VideoCrafter (lvdm/modules/encoders/ip_resampler.py).
"""

import numpy as np

from vdm_jax.encoders.resampler import Resampler
from vdm_jax.pretrained.tables.table import Table, stacked_names

NAMES = {
  "queries": "latents",
  "proj_in": "proj_in",
  "proj_out": "proj_out",
  "norm_out": "norm_out",
}
BLOCK = {
  "token_norm": "0.norm1",
  "query_norm": "0.norm2",
  "q": "0.to_q",
  "kv": "0.to_kv",
  "out": "0.to_out",
  "mlp_norm": "1.0",
  "mlp_in": "1.1",
  "mlp_out": "1.3",
}
PATTERNS = {
  "queries 2": "1 rows d -> rows d",
  "/kv/kernel": "(two n d) i -> i (n two d)",
}


def published_layer_names(module):
  """{our layer, or parameter: its published name, or a tuple} of a Resampler."""
  return NAMES | stacked_names("layers", "blocks", BLOCK, range(module.depth))


TABLE = Table(
  module_class=Resampler,
  names=published_layer_names,
  inputs=lambda module: (np.zeros((1, 1, module.embedding), np.float32),),
  patterns=lambda module: PATTERNS,
  prefix=r"image_proj(_model)?\.",
)
