"""Adaptive layer norm: shifts, scales and gates of a block from the condition.

By their names in MODULATIONS:

  block   a linear layer in each block; all are 0 at first (adaLN-Zero of
          https://arxiv.org/abs/2212.09748, S-AdaLN of https://arxiv.org/abs/2401.03048)
  shared  one linear layer for all blocks, and a table for each
          (adaLN-single of https://arxiv.org/abs/2310.00426)
  tokens  none: the condition is given as tokens, the norms are learned, the gates 1
"""

import flax.linen as nn
import jax.numpy as jnp
from einops import rearrange

from vdm_jax.layers.linear import Linear, zeros
from vdm_jax.layers.module import named_param


class ModulationTable(nn.Module):
  """A learned table of shifts and scales; its call returns it, [rows, width]."""

  rows: int
  width: int
  init: nn.initializers.Initializer
  param_dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self):
    shape = self.rows, self.width
    return named_param(self, "table", self.init, (None, "embed"), shape)


def adaln_zero_modulation(emb, width, num, **dtypes):
  """`num` shifts, scales and gates by a linear layer of emb [B, T or 1, D]: adaLN-Zero.

  Called inside a linen module, to which it adds the layer, 0 at first, as the child
  `modulation`. Returns a list of arrays [B, T or 1, 1, width], for tokens
  [B, T, N, width]. `dtypes` are dtype and param_dtype.
  """
  linear = Linear(
    num * width, ("embed", None), kernel_init=zeros, **dtypes, name="modulation"
  )
  return _split(linear(emb), num)


def adaln_single_modulation(emb, width, num, *, dtype, param_dtype):
  """`num` shifts, scales and gates by a learned table plus `emb` (adaLN-single).

  Called inside a linen module, to which it adds the table as the child `modulation`.
  Returns a list of arrays [B, T or 1, 1, width], for tokens [B, T, N, width].

  Args:
    emb: [B, T or 1, num * width], computed once for all blocks; or [B, T or 1, width],
      added to each of the num rows.
  """
  init = nn.initializers.normal(width**-0.5)
  table = ModulationTable(num, width, init, param_dtype, name="modulation")().astype(
    dtype
  )
  if emb.shape[-1] == width:
    emb = jnp.tile(emb, num)
  rows = rearrange(table, "num d -> num 1 1 1 d")
  return [row + part for row, part in zip(rows, _split(emb, num), strict=True)]


def unconditional_modulation(emb, width, num, *, dtype, param_dtype):
  """`num` shifts, scales and gates by a learned table, without a condition (`emb`).

  Called inside a linen module, to which it adds the table as the child `modulation`.
  Returns a list of shift, scale and gate in turn: arrays [width], but 1.0 for gates.
  """
  del emb
  names = [("shift", "scale", "gate")[i % 3] for i in range(num)]
  learned = [i for i, name in enumerate(names) if name != "gate"]
  rows = ModulationTable(len(learned), width, zeros, param_dtype, name="modulation")()
  found = dict(zip(learned, rows.astype(dtype), strict=True))
  return [found.get(i, 1.0) for i in range(num)]


MODULATIONS = {
  "block": adaln_zero_modulation,
  "shared": adaln_single_modulation,
  "tokens": unconditional_modulation,
}


def _split(mod, num):
  return rearrange(mod, "b t (num d) -> num b t 1 d", num=num)
