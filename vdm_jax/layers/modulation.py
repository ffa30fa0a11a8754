"""How a condition changes a block: shifts, scales and gates from its embedding.

Each function is called inside a linen module, to which it adds one child called
`modulation`, and gives `num` arrays that broadcast to tokens [B, T, N, D]: shift,
scale and gate of each branch in turn.

  block   a linear layer of its own; all are 0 at first (adaLN-Zero of
          https://arxiv.org/abs/2212.09748, S-AdaLN of https://arxiv.org/abs/2401.03048)
  shared  one linear layer for all blocks, and a table for each
          (adaLN-single of https://arxiv.org/abs/2310.00426)
  tokens  nothing: the condition comes as tokens, the norms are learned, the gates 1
"""

import flax.linen as nn
import jax.numpy as jnp
from einops import rearrange

from vdm_jax.layers.linear import Linear, zeros


class ModulationTable(nn.Module):
  """A parameter [rows, width]."""

  rows: int
  width: int
  init: nn.initializers.Initializer
  param_dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self):
    init = nn.with_logical_partitioning(self.init, (None, "embed"))
    return self.param("table", init, (self.rows, self.width), self.param_dtype)


def block(emb, width, num, **dtypes):
  """From emb [B, T or 1, D], the embedding after its nonlinearity."""
  linear = Linear(
    num * width, ("embed", None), kernel_init=zeros, **dtypes, name="modulation"
  )
  return _split(linear(emb), num)


def shared(emb, width, num, *, dtype, param_dtype):
  """From emb [B, T or 1, num D], made once for all; or D, then for each of them."""
  init = nn.initializers.normal(width**-0.5)
  table = ModulationTable(num, width, init, param_dtype, name="modulation")().astype(
    dtype
  )
  if emb.shape[-1] == width:
    emb = jnp.tile(emb, num)
  rows = rearrange(table, "num d -> num 1 1 1 d")
  return [row + part for row, part in zip(rows, _split(emb, num), strict=True)]


def tokens(emb, width, num, *, dtype, param_dtype):
  """Shifts and scales from a table, whatever emb is; gates are 1."""
  del emb
  names = [("shift", "scale", "gate")[i % 3] for i in range(num)]
  learned = [i for i, name in enumerate(names) if name != "gate"]
  rows = ModulationTable(len(learned), width, zeros, param_dtype, name="modulation")()
  found = dict(zip(learned, rows.astype(dtype), strict=True))
  return [found.get(i, 1.0) for i in range(num)]


MODULATIONS = {"block": block, "shared": shared, "tokens": tokens}


def _split(mod, num):
  return rearrange(mod, "b t (num d) -> num b t 1 d", num=num)
