"""The blocks of a factorised video transformer, and the orders in which they repeat.

Tokens are [B, T, N, D]: N places in each of T frames. A block attends inside a frame
(spatial), along time at one place (temporal), both, or over all places of all frames as
one big picture (full), and ends with a perceptron; each branch is shifted, scaled and
gated by the condition, see layers/modulation.py.

Variants 1 to 4 of https://arxiv.org/abs/2401.03048 are four pairs of a layout and a
fusion, in VARIANTS.
"""

import functools
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange, repeat
from jax.ad_checkpoint import checkpoint_name

from vdm_jax.layers import modulation, norms, placement
from vdm_jax.layers.activations import PERCEPTRONS
from vdm_jax.layers.attention import attention
from vdm_jax.layers.cpu import blocking
from vdm_jax.layers.linear import Linear

# What attention goes along: the layout in which that axis is the last but one, and
# the logical names of [B, T, N, D]. The attended axis is whole on each device (dynamic
# sequence parallelism, https://arxiv.org/abs/2403.10266), but that of "full", whose
# attention runs over a split sequence, see layers/attention/sequence.py.
AXES = {
  "spatial": ("b t n d", ("batch", "frames", None, None)),
  "temporal": ("b n t d", ("batch", None, "space", None)),
  "full": ("b (t n) d", ("batch", "frames", None, None)),
}

# How kept outputs lie, whatever they are of: frames apart, like the tokens between the
# blocks. A layer that re-uses its attention along time sends nothing.
TOKEN_LAYOUT = AXES["spatial"][1]

# What a block attends along. In a serial block one attention follows the other, under
# the same shift, scale and gate; in a parallel one each has half of the heads, over
# the whole width, and they are added.
BLOCKS = {
  "spatial": ("spatial",),
  "temporal": ("temporal",),
  "serial": ("spatial", "temporal"),
  "parallel": ("spatial", "temporal"),
  "full": ("full",),
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

# What the backward pass keeps instead of computing it again: nothing but the input of
# each layer, the products with weights, or, in the memory of the host, NAMED.
NAMED = ("block_in", "attention_out")
REMAT = {
  "none": None,
  "full": jax.checkpoint_policies.nothing_saveable,
  "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
  "offload": jax.checkpoint_policies.save_and_offload_only_these_names(
    names_which_can_be_saved=[],
    names_which_can_be_offloaded=list(NAMED),
    offload_src="device",
    offload_dst="pinned_host",
  ),
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


class TransformerBlock(nn.Module):
  """Transformer block on tokens [B, T, N, D]; the identity while its gates are 0."""

  kind: str  # a key of BLOCKS
  num_heads: int
  mlp_ratio: float
  modulation: str  # a key of modulation.MODULATIONS
  attention_bias: bool = True  # of q, k and v
  activation: str = "gelu-approximate"  # a key of PERCEPTRONS
  norm_epsilon: tuple[float, float] = (1e-6, 1e-6)  # before attention, perceptron
  norm_affine: tuple[bool, bool] = (False, False)
  kernel: str = "auto"  # of self-attention, a key of attention.KERNELS
  sequence_split: str = (
    "ulysses"  # of a sequence over devices, a key of sequence.SPLITS
  )
  keep_outputs: tuple[str, ...] = ()  # outputs that are kept: keys of AXES, "cross"
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
    x = checkpoint_name(x, "block_in")
    mod = modulate(signals.emb, width, 6, **dtypes)
    shift1, scale1, gate1, shift2, scale2, gate2 = mod

    if self.kind == "parallel":
      x = self._constrain(x if time is None else x + time, along[0])
      h = self._norm(0, x, shift1, scale1)
      parts = [
        self._cached_or_compute(
          axis, self._attend, self._constrain(h, axis), axis, signals
        )
        for axis in along
      ]
      parts = [self._constrain(h, axis) for h, axis in zip(parts, along, strict=True)]
      x = x + gate1 * sum(self._constrain(h, along[0]) for h in parts)
    else:
      for axis in along:
        x = x if axis == "spatial" or time is None else x + time
        x = self._constrain(x, axis)
        h = self._norm(0, x, shift1, scale1)
        h = self._cached_or_compute(axis, self._attend, h, axis, signals)
        x = self._constrain(x + gate1 * h, axis)
    if signals.text is not None and BLOCKS[self.kind] != ("temporal",):
      x = x + self._cached_or_compute("cross", self._cross_attend, x, *signals.text)

    h = self._norm(1, x, shift2, scale2)
    factor, activate = PERCEPTRONS[self.activation]
    hidden = factor * int(width * self.mlp_ratio)
    h = activate(Linear(hidden, ("embed", "mlp"), **dtypes, name="mlp_in")(h))
    x = x + gate2 * Linear(width, ("mlp", "embed"), **dtypes, name="mlp_out")(h)
    return self._constrain(x, along[0] if self.kind == "parallel" else along[-1])

  def _norm(self, i, x, shift, scale):
    """x, normalised and modulated, before attention (i = 0) or the perceptron (1)."""
    affine = None
    if self.norm_affine[i]:
      affine = norms.AffineParameters(
        x.shape[-1], self.param_dtype, name=f"norm{i + 1}"
      )()
    return norms.modulated_norm(x, shift, scale, affine, self.norm_epsilon[i])

  def _constrain(self, x, axis):
    """x as attention along this axis wants it to lie, if there will be one."""
    if self.has_variable("cache", axis):
      return x
    return placement.constrain(x, AXES[axis][1])

  def _cached_or_compute(self, name, attend, *args):
    """attend(*args) [B, T, N, D], or what an earlier call kept of it."""
    if self.has_variable("cache", name):
      return placement.constrain(self.get_variable("cache", name), TOKEN_LAYOUT)
    h = attend(*args)
    if name in self.keep_outputs:
      self.put_variable("cache_out", name, placement.constrain(h, TOKEN_LAYOUT))
    return h

  def _attend(self, h, axis, signals):
    """Self-attention along one axis of h."""
    heads = self.num_heads // 2 if self.kind == "parallel" else self.num_heads
    name = axis if len(BLOCKS[self.kind]) > 1 else "attention"
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    frames, num_places = h.shape[1:3]
    places = None if axis == "spatial" else signals.places
    if places is not None:
      if axis == "temporal":
        places = rearrange(places, "b t -> b 1 t")
      else:
        places = repeat(places, "b t -> b (t n)", n=num_places)
    h = rearrange(h, f"b t n d -> {AXES[axis][0]}")
    attend = attention.Attention(
      heads, self.attention_bias, self.kernel, self.sequence_split, **dtypes, name=name
    )
    # A merged axis is split as its first one is.
    layout = AXES[axis][0].replace("(t n)", "t").split()
    names = dict(zip("btnd", AXES[axis][1], strict=True))
    h = attend(h, positions=places, names=tuple(names[each] for each in layout))
    h = checkpoint_name(h, "attention_out")
    return rearrange(h, f"{AXES[axis][0]} -> b t n d", t=frames, n=num_places)

  def _cross_attend(self, x, text, mask):
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
  keep_outputs: tuple[
    str, ...
  ] = ()  # "stack": what all blocks add; others are the blocks'
  train: bool = False  # a backward pass follows; only speed depends on it

  @nn.compact
  def __call__(self, x, signals, time, axes):
    """Tokens [B, T, N, D], after the blocks; or with what they added in another call.

    Args:
      time: [B or 1, T, 1, D] or None, added once, before the first attention along
        time.
      axes: the keys of AXES that are attended along; a block for which none is left
        is passed by.
    """
    if self.has_variable("cache", "stack"):
      return x + placement.constrain(self.get_variable("cache", "stack"), TOKEN_LAYOUT)
    before = x
    along = {k: tuple(a for a in BLOCKS[k] if a in axes) for k in self.layout}
    in_time = lambda kind: set(along[kind]) & {"temporal", "full"}
    first_kind = next((k for k in self.layout if in_time(k)), None)

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
          block = TransformerBlock(
            kind, **stack.block, keep_outputs=stack.keep_outputs, name=kind
          )
          x = _cpu_tiled(block, x, signals, along[kind], here, self.train)
        return x, None

      if kinds:
        x, _ = self._repeat(layer)(self, x, inputs, shared, time)
    if "stack" in self.keep_outputs:
      self.put_variable(
        "cache_out", "stack", placement.constrain(x - before, TOKEN_LAYOUT)
      )
    return x

  def _repeat(self, layer):
    """`layer` over a leading axis of its blocks' parameters and of its inputs."""
    policy = REMAT[{True: "full", False: "none"}.get(self.remat, self.remat)]
    if policy is not None:
      # Inside a loop the compiler cannot undo remat; in an unrolled one it could.
      layer = nn.remat(layer, policy=policy, prevent_cse=self.unroll > 1)
    return nn.scan(
      layer,
      variable_axes={"params": 0, "cache": 0, "cache_out": 0},
      split_rngs={"params": True},
      in_axes=(0, nn.broadcast, nn.broadcast),
      length=self.num_layers,
      unroll=self.unroll,
      metadata_params={nn.PARTITION_NAME: "layers"},
    )


def _cpu_tiled(block, x, signals, along, time, train=False):
  """block(x, signals, along, time); on CPU in parts that stay in its cache.

  A part is a few frames of a clip where attention stays inside them, a few places
  where it goes along time, else a clip. A part takes the place of what it was made of,
  but for a backward pass, which would look for it in all of x.
  """
  b, t, n, width = x.shape
  each = 4 * int(width * block.mlp_ratio)  # bytes of a token inside the perceptron
  if (
    not blocking.enabled()
    or block.is_initializing()
    or b * t * n * each <= blocking.BYTES
  ):
    return block(x, signals, along, time)
  frames = blocking.block_size(t, n * each) if along == ("spatial",) else t
  places = blocking.block_size(n, t * each) if along == ("temporal",) else n
  corner = jnp.indices((b, t // frames, n // places)).reshape(3, -1)
  corner = corner[0], corner[1] * frames, corner[2] * places

  def of_clip(array, i, start=None):
    """The part of a signal [B or 1, T or 1, ...] that belongs to clip i."""
    array = array if len(array) == 1 else jax.lax.dynamic_slice_in_dim(array, i, 1)
    if start is None or array.shape[1] == 1:
      return array
    return jax.lax.dynamic_slice_in_dim(array, start, frames, axis=1)

  def of_part(block, x, i, start):
    told = Signals(
      emb=None if signals.emb is None else of_clip(signals.emb, i, start),
      places=None if signals.places is None else of_clip(signals.places, i),
      text=None if signals.text is None else tuple(of_clip(a, i) for a in signals.text),
    )
    return block(x, told, along, None if time is None else of_clip(time, i))

  of_part = nn.remat(of_part, policy=REMAT["dots"], prevent_cse=False)

  def in_place(block, x, corner):
    at = (*corner, 0)
    part = jax.lax.dynamic_slice(x, at, (1, frames, places, width))
    part = of_part(block, part, *corner[:2])
    return jax.lax.dynamic_update_slice(x, part, at), None

  def apart(block, _, inputs):
    part, corner = inputs
    return None, of_part(block, part, *corner[:2])

  scan = functools.partial(
    nn.scan,
    variable_broadcast="params",
    variable_axes={"cache": 0, "cache_out": 0},
    split_rngs={"params": False},
  )
  if not train:
    x, _ = scan(in_place)(block, x, corner)
    return x
  layout, sizes = "(b u m) 1 t n d", dict(b=b, t=frames, n=places)
  parts = rearrange(x, f"b (u t) (m n) d -> {layout}", **sizes)
  _, parts = scan(apart)(block, None, (parts, corner))
  return rearrange(parts, f"{layout} -> b (u t) (m n) d", b=b, m=n // places)
