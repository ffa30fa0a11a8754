"""The blocks of a factorised video transformer, and the orders in which they repeat.

Tokens are [B, T, N, D]: N places in each of T frames. A block attends inside a frame
(spatial), along time at one place (temporal), or both, and ends with a perceptron;
each branch is shifted, scaled and gated by the condition, see layers/modulation.py.

Variants 1 to 4 of https://arxiv.org/abs/2401.03048 are four pairs of a layout and a
fusion, in VARIANTS.
"""

from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from vdm_jax.layers import attention, modulation, norms
from vdm_jax.layers.activations import PERCEPTRONS
from vdm_jax.layers.linear import Linear

# What attention goes along: the layout in which that axis is the last but one, and
# the logical names of [B, T, N, D]. The attended axis is whole on each device.
AXES = {
  "spatial": ("b t n d", ("batch", "frames", None, None)),
  "temporal": ("b n t d", ("batch", None, "space", None)),
}

# What a block attends along. In a serial block one attention follows the other, under
# the same shift, scale and gate; in a parallel one each has half of the heads, over
# the whole width, and they are added.
BLOCKS = {
  "spatial": ("spatial",),
  "temporal": ("temporal",),
  "serial": ("spatial", "temporal"),
  "parallel": ("spatial", "temporal"),
}

# The kinds of blocks in `layout` -> the groups that repeat, one group after the other.
FUSIONS = {
  "interleaved": lambda layout: (layout,),
  "late": lambda layout: tuple((kind,) for kind in layout),
}

# Late fusion has the parameters of variant 1 in the same places: it can take them over.
# A block of these has 18 width^2 weights (attention 4, perceptron 8, modulation 6), one
# of variants 3 and 4 has 22, with two attentions: 23 of them make as large an XL as 28,
# 676.36 and 673.68 M parameters without classes. That depth is derived from the sizes.
VARIANTS = {
  1: dict(layout=("spatial", "temporal")),
  2: dict(layout=("spatial", "temporal"), fusion="late"),
  3: dict(layout=("serial",)),
  4: dict(layout=("parallel",)),
}

# What the backward pass keeps instead of computing it again.
REMAT = {
  "full": jax.checkpoint_policies.nothing_saveable,
  "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


@flax.struct.dataclass
class Signals:
  """What every block is told, the same for all of them.

  Attributes:
    emb: [B, T or 1, ...], what the modulation reads; [L, B, T or 1, ...] if each block
      has its own.
    places: [B or 1, T] for rotary positions in time.
    text: (values [B, L, D], mask [B, L]) for cross-attention.
  """

  emb: jax.Array | None
  places: jax.Array | None = None
  text: tuple[jax.Array, jax.Array] | None = None


class Block(nn.Module):
  """Transformer block on tokens [B, T, N, D]; the identity while its gates are 0."""

  kind: str  # a key of BLOCKS
  num_heads: int
  mlp_ratio: float
  modulation: str  # a key of modulation.MODULATIONS
  attention_bias: bool = True  # of q, k and v
  activation: str = "gelu-approximate"  # a key of PERCEPTRONS
  norm_epsilon: tuple[float, float] = (1e-6, 1e-6)  # before attention, perceptron
  norm_affine: tuple[bool, bool] = (False, False)
  dtype: Any = jnp.float32
  param_dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, signals, along, time=None):
    """Tokens, after the block.

    Args:
      along: the keys of AXES to attend along, of those in BLOCKS.
      time: [B or 1, T, 1, D], positions to add before attention along time.
    """
    width = x.shape[-1]
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    modulate = modulation.MODULATIONS[self.modulation]
    mod = modulate(signals.emb, width, 6, **dtypes)
    shift1, scale1, gate1, shift2, scale2, gate2 = mod

    if self.kind == "parallel":
      x = x if time is None else x + time
      h = self._norm(0, x, shift1, scale1)
      parts = [
        self._attend(nn.with_logical_constraint(h, AXES[axis][1]), axis, signals)
        for axis in along
      ]
      x = x + gate1 * sum(parts)
    else:
      for axis in along:
        x = x if axis == "spatial" or time is None else x + time
        x = nn.with_logical_constraint(x, AXES[axis][1])
        h = self._norm(0, x, shift1, scale1)
        x = x + gate1 * self._attend(h, axis, signals)
    if signals.text is not None and "spatial" in BLOCKS[self.kind]:
      x = x + self._read(x, *signals.text)

    h = self._norm(1, x, shift2, scale2)
    factor, activate = PERCEPTRONS[self.activation]
    hidden = factor * int(width * self.mlp_ratio)
    h = activate(Linear(hidden, ("embed", "mlp"), **dtypes, name="mlp_in")(h))
    return x + gate2 * Linear(width, ("mlp", "embed"), **dtypes, name="mlp_out")(h)

  def _norm(self, i, x, shift, scale):
    """x, normalised and modulated, before attention (i = 0) or the perceptron (1)."""
    affine = None
    if self.norm_affine[i]:
      affine = norms.Affine(x.shape[-1], self.param_dtype, name=f"norm{i + 1}")()
    return norms.modulated(x, shift, scale, affine, self.norm_epsilon[i])

  def _attend(self, h, axis, signals):
    """Self-attention along one axis of h."""
    heads = self.num_heads // 2 if self.kind == "parallel" else self.num_heads
    name = axis if len(BLOCKS[self.kind]) > 1 else "attention"
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    places = signals.places if axis == "temporal" else None
    if places is not None:
      places = rearrange(places, "b t -> b 1 t")
    h = rearrange(h, f"b t n d -> {AXES[axis][0]}")
    attend = attention.Attention(heads, self.attention_bias, **dtypes, name=name)
    h = attend(h, positions=places)
    return rearrange(h, f"{AXES[axis][0]} -> b t n d")

  def _read(self, x, text, mask):
    """Cross-attention of all tokens of a clip to its text."""
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    read = attention.CrossAttention(
      self.num_heads, self.attention_bias, **dtypes, name="cross"
    )
    h = read(rearrange(x, "b t n d -> b (t n) d"), text, mask)
    return rearrange(h, "b (t n) d -> b t n d", t=x.shape[1])


class Stack(nn.Module):
  """All blocks: a scan for each group of kinds, with stacked parameters.

  The parameters of each kind lie under its name, whatever the fusion.
  """

  layout: tuple[str, ...]
  fusion: str
  num_layers: int  # of each kind
  remat: bool | str  # True is "full"; a key of REMAT
  unroll: int
  block: dict[str, Any]

  @nn.compact
  def __call__(self, x, signals, time, axes):
    """Tokens [B, T, N, D], after the blocks.

    Args:
      time: [B or 1, T, 1, D] or None, added once, before the first attention along
        time.
      axes: the keys of AXES that are attended along; a block for which none is left
        is passed by.
    """
    along = {k: tuple(a for a in BLOCKS[k] if a in axes) for k in self.layout}
    first_kind = next((k for k in self.layout if "temporal" in along[k]), None)

    each = signals.emb if signals.emb is not None and signals.emb.ndim == 4 else None
    inputs = jnp.arange(self.num_layers), each
    shared = signals if each is None else signals.replace(emb=None)
    for group in FUSIONS[self.fusion](self.layout):
      kinds = [kind for kind in group if along[kind]]

      def layer(stack, x, inputs, signals, time, kinds=kinds):
        index, emb = inputs
        signals = signals if emb is None else signals.replace(emb=emb)
        for kind in kinds:
          here = None
          if time is not None and kind == first_kind:
            here = jnp.where(index == 0, time, 0.0).astype(x.dtype)
          block = Block(kind, **stack.block, name=kind)
          x = block(x, signals, along[kind], here)
        return x, None

      if kinds:
        x, _ = self._repeat(layer)(self, x, inputs, shared, time)
    return x

  def _repeat(self, layer):
    """`layer` over a leading axis of its blocks' parameters and of its inputs."""
    if self.remat:
      policy = REMAT["full" if self.remat is True else self.remat]
      # Inside a loop the compiler cannot undo remat; in an unrolled one it could.
      layer = nn.remat(layer, policy=policy, prevent_cse=self.unroll > 1)
    return nn.scan(
      layer,
      variable_axes={"params": 0},
      split_rngs={"params": True},
      in_axes=(0, nn.broadcast, nn.broadcast),
      length=self.num_layers,
      unroll=self.unroll,
      metadata_params={nn.PARTITION_NAME: "layers"},
    )
