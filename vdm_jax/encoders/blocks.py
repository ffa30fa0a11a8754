"""Blocks of the encoders that read texts and images, and the scan that repeats them.

The same block serves BERT (https://arxiv.org/abs/1810.04805), which normalises after
each branch, and CLIP (https://arxiv.org/abs/2103.00020), which does so before it.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vdm_jax.layers import activations, norms
from vdm_jax.layers.attention import attention
from vdm_jax.layers.linear import Linear

normal = nn.initializers.normal(0.02)


class Embedding(nn.Module):
  """Integers [...] below `rows` -> [..., width]; any larger one gives NaN."""

  rows: int
  width: int
  axis: str = "embed"  # logical name of the width
  dtype: Any = jnp.float32
  param_dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, ids):
    table = self.param(
      "table",
      nn.with_logical_partitioning(normal, (None, self.axis)),
      (self.rows, self.width),
      self.param_dtype,
    )
    return jnp.take(table, ids, axis=0, mode="fill").astype(self.dtype)


class Block(nn.Module):
  """Self-attention and a perceptron on tokens [B, L, D], with biases.

  Returns the tokens twice: what the next block gets, and what `repeat` collects.
  """

  num_heads: int
  hidden: int  # width of the perceptron
  norm: str  # "before" or "after" each branch
  activation: str  # a key of activations.ACTIVATIONS
  epsilon: float
  dtype: Any = jnp.float32
  param_dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, mask):
    """`mask` is boolean, broadcastable to [B, N, L, L], or None."""
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    width = x.shape[-1]
    attend = attention.Attention(self.num_heads, **dtypes, name="attention")
    mlp_in = Linear(self.hidden, ("embed", "mlp"), **dtypes, name="mlp_in")
    mlp_out = Linear(width, ("mlp", "embed"), **dtypes, name="mlp_out")
    activate = activations.ACTIVATIONS[self.activation]
    branches = {
      "attention_norm": lambda x: attend(x, mask=mask),
      "mlp_norm": lambda x: mlp_out(activate(mlp_in(x))),
    }
    for name, branch in branches.items():
      norm = norms.LayerNorm(self.epsilon, self.param_dtype, name=name)
      x = norm(x + branch(x)) if self.norm == "after" else x + branch(norm(x))
    return x, x


def repeat(block, depth):
  """The class `block` `depth` times, over a leading axis of its parameters.

  Its call gives the last tokens and those after each block, [depth, B, L, D], which
  cost nothing where nobody reads them; all arguments but the first are the same for
  every block.
  """
  return nn.scan(
    block,
    variable_axes={"params": 0},
    split_rngs={"params": True},
    in_axes=nn.broadcast,
    length=depth,
    metadata_params={nn.PARTITION_NAME: "layers"},
  )


def positions(ids, length):
  """0 .. L - 1 for ids [B, L]; raises a ValueError if there are fewer positions."""
  if ids.shape[1] > length:
    raise ValueError(
      f"A text of {ids.shape[1]} tokens, but this encoder has length={length} "
      "positions; cut the text."
    )
  return jnp.arange(ids.shape[1])
