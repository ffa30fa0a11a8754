"""Transformer blocks of the text and image encoders, and the scan that repeats them.

The same block serves BERT (https://arxiv.org/abs/1810.04805), which normalises after
each branch, and CLIP (https://arxiv.org/abs/2103.00020), which does so before it.
"""

import flax.linen as nn
import jax.numpy as jnp

from vdm_jax.layers import activations, norms
from vdm_jax.layers.attention import attention
from vdm_jax.layers.linear import Linear
from vdm_jax.layers.module import TypedModule

normal = nn.initializers.normal(0.02)


class Embedding(TypedModule):
  """Embedding table: ids [...] -> [..., width] in `dtype`; an id >= `rows` gives NaN.

  `axis` is the logical name of the width, for a mesh.
  """

  rows: int
  width: int
  axis: str = "embed"

  @nn.compact
  def __call__(self, ids):
    table = self.param(
      "table",
      nn.with_logical_partitioning(normal, (None, self.axis)),
      (self.rows, self.width),
      self.param_dtype,
    )
    return jnp.take(table, ids, axis=0, mode="fill").astype(self.dtype)


class EncoderBlock(TypedModule):
  """A transformer block, tokens [B, L, D] -> the same: self-attention and an MLP.

  The MLP has the width `hidden`, and all layers have biases. `norm` is "before" or
  "after" each of the two; `activation` is "gelu", "quick_gelu" ...
  """

  num_heads: int
  hidden: int
  norm: str
  activation: str
  epsilon: float

  @nn.compact
  def __call__(self, x, mask):
    """(tokens, tokens), the same [B, L, D] twice: a scan's carry, and what it stacks.

    x is [B, L, D]; `mask` is boolean, broadcastable to [B, N, L, L], or None.
    """
    width = x.shape[-1]
    attend = attention.Attention(self.num_heads, **self.dtypes, name="attention")
    mlp_in = Linear(self.hidden, ("embed", "mlp"), **self.dtypes, name="mlp_in")
    mlp_out = Linear(width, ("mlp", "embed"), **self.dtypes, name="mlp_out")
    activate = activations.ACTIVATIONS[self.activation]
    branches = {
      "attention_norm": lambda x: attend(x, mask=mask),
      "mlp_norm": lambda x: mlp_out(activate(mlp_in(x))),
    }
    for name, branch in branches.items():
      norm = norms.LayerNorm(self.epsilon, self.param_dtype, name=name)
      x = norm(x + branch(x)) if self.norm == "after" else x + branch(norm(x))
    return x, x


def scan_blocks(block, depth):
  """A module class that applies a block `depth` times; parameters have a leading axis.

  `block` is a module class, called with (x, *args) -> (x, y). The result, called with
  (x, *args), returns (x [B, L, D] after the last block, y of all [depth, B, L, D]); the
  second costs nothing if it is not used. `args` are the same for every block.
  """
  return nn.scan(
    block,
    variable_axes={"params": 0},
    split_rngs={"params": True},
    in_axes=nn.broadcast,
    length=depth,
    metadata_params={nn.PARTITION_NAME: "layers"},
  )


def encoder_stack(encoder, norm_position):
  """A module: all EncoderBlocks of an encoder, scanned, with the encoder's fields.

  Called with (x [B, L, D], mask), it returns (x after the last block, x after each
  block [depth, B, L, D]). It is the child "blocks" of `encoder`, a linen module;
  `norm_position` is "before" or "after" each branch.
  """
  return scan_blocks(EncoderBlock, encoder.depth)(
    num_heads=encoder.num_heads,
    hidden=encoder.hidden,
    norm=norm_position,
    activation=encoder.activation,
    epsilon=encoder.epsilon,
    **encoder.dtypes,
    name="blocks",
  )


def position_ids(token_ids, max_length):
  """Positions 0 .. L - 1, int [L], of ids [B, L]; a ValueError if L > max_length."""
  if token_ids.shape[1] > max_length:
    raise ValueError(
      f"A text of {token_ids.shape[1]} tokens, but this encoder has "
      f"length={max_length} positions; cut the text."
    )
  return jnp.arange(token_ids.shape[1])
