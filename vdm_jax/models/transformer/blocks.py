"""The blocks of a factorised video transformer, and the orders in which they repeat.

Tokens are [B, T, N, D]: N places in each of T frames. A block attends inside a frame
(spatial), along time at one place (temporal), both, or over all places of all frames as
one big image (full), and ends with a perceptron; each branch is shifted, scaled and
gated by the condition, see layers/modulation.py.

Variants 1 to 4 of https://arxiv.org/abs/2401.03048 are four pairs of a layout and a
fusion, in VARIANTS.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange, repeat
from jax.ad_checkpoint import checkpoint_name

from vdm_jax.layers import cpu, modulation, norms, placement
from vdm_jax.layers.activations import PERCEPTRONS
from vdm_jax.layers.attention import attention
from vdm_jax.layers.linear import Linear
from vdm_jax.layers.module import TypedModule
from vdm_jax.models import inputs

# The axis that attention goes along: the layout [..., L, D] with L that axis, and the
# logical names of [B, T, N, D] on a mesh. The attended axis is whole on each device
# (dynamic sequence parallelism, https://arxiv.org/abs/2403.10266), but that of "full",
# whose attention runs over a split sequence, see layers/attention/sequence.py.
AXES = {
  "spatial": ("b t n d", ("batch", "frames", None, None)),
  "temporal": ("b n t d", ("batch", None, "space", None)),
  "full": ("b (t n) d", ("batch", "frames", None, None)),
}

# Between blocks, and for cached outputs of any of their attentions: frames are split.
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


class TransformerBlock(TypedModule):
  """Transformer block on tokens [B, T, N, D]; the identity while its gates are 0.

    x = x + gate1 attention(norm1(x) (1 + scale1) + shift1)     along each of its axes
    x = x + cross_attention(x, text)                            if there is a text
    x = x + gate2 mlp(norm2(x) (1 + scale2) + shift2)

  Attributes:
    kind: "spatial", "temporal", "serial" or "parallel" (both), "full".
    mlp_ratio: hidden width of the perceptron over D.
    modulation: where shift, scale and gate come from: "block" (adaLN-Zero), "shared"
      (adaLN-single), "tokens" (learned, without a condition).
    attention_bias: whether q, k and v have biases.
    activation: "gelu", "gelu-approximate" (tanh), "geglu", "swiglu" ...
    norm_epsilon, norm_affine: of norm1 and norm2; affine: with learned scale and bias.
    kernel: of attention, "auto", "xla", "chunked", "splash" or "cudnn".
    sequence_split: "ulysses" or "ring", for "full" over devices that share a clip.
    keep_outputs: "spatial", "temporal", "full", "cross": attentions whose outputs
      [B, T, N, D] are put into the collection "cache_out". Where the collection "cache"
      holds such an output, it is taken from there and not computed.
  """

  kind: str
  num_heads: int
  mlp_ratio: float
  modulation: str
  attention_bias: bool = True
  activation: str = "gelu-approximate"
  norm_epsilon: tuple[float, float] = (1e-6, 1e-6)
  norm_affine: tuple[bool, bool] = (False, False)
  kernel: str = "auto"
  sequence_split: str = "ulysses"
  keep_outputs: tuple[str, ...] = ()

  @nn.compact
  def __call__(self, x, signals, along, time=None):
    """Tokens [B, T, N, D], after the block.

    Args:
      x: tokens [B, T, N, D].
      signals: inputs.Signals, the embedded time and condition.
      along: which of its attentions are computed: "spatial", "temporal", "full".
      time: [B or 1, T, 1, D], positions to add before attention along time.
    """
    x = checkpoint_name(x, "block_in")
    modulate = modulation.MODULATIONS[self.modulation]
    mod = modulate(signals.emb, x.shape[-1], 6, **self.dtypes)
    shift1, scale1, gate1, shift2, scale2, gate2 = mod
    attend = self._in_parallel if self.kind == "parallel" else self._in_series
    x = attend(x, signals, along, time, (shift1, scale1), gate1)
    if signals.text is not None and BLOCKS[self.kind] != ("temporal",):
      x = x + self._cached("cross", self._cross_attend, x, *signals.text)
    x = x + gate2 * self._mlp(self._norm(1, x, shift2, scale2))
    return self._constrain(x, along[0] if self.kind == "parallel" else along[-1])

  def _in_series(self, x, signals, along, time, mod, gate):
    """x + gate attention(norm(x)), along one axis after the other."""
    for axis in along:
      x = x if axis == "spatial" or time is None else x + time
      x = self._constrain(x, axis)
      h = self._norm(0, x, *mod)
      h = self._cached(axis, self._self_attend, h, axis, signals.positions)
      x = self._constrain(x + gate * h, axis)
    return x

  def _in_parallel(self, x, signals, along, time, mod, gate):
    """x + gate (the sum of attention(norm(x)) along each axis)."""
    x = self._constrain(x if time is None else x + time, along[0])
    h = self._norm(0, x, *mod)
    parts = [
      self._cached(
        axis, self._self_attend, self._constrain(h, axis), axis, signals.positions
      )
      for axis in along
    ]
    # The old layout is named first, see layers/placement.py.
    parts = [self._constrain(h, axis) for h, axis in zip(parts, along, strict=True)]
    return x + gate * sum(self._constrain(h, along[0]) for h in parts)

  def _norm(self, i, x, shift, scale):
    """x, normalised and modulated, before attention (i = 0) or the perceptron (1)."""
    affine = None
    if self.norm_affine[i]:
      affine = norms.AffineParameters(
        x.shape[-1], self.param_dtype, name=f"norm{i + 1}"
      )()
    return norms.modulated_norm(x, shift, scale, affine, self.norm_epsilon[i])

  def _constrain(self, x, axis):
    """x in the mesh layout of attention along this axis, unless that is cached."""
    if self.has_variable("cache", axis):
      return x
    return placement.constrain(x, AXES[axis][1])

  def _cached(self, name, attend, *args):
    """attend(*args) [B, T, N, D], or its output in an earlier call."""
    if self.has_variable("cache", name):
      return placement.constrain(self.get_variable("cache", name), TOKEN_LAYOUT)
    h = attend(*args)
    if name in self.keep_outputs:
      self.put_variable("cache_out", name, placement.constrain(h, TOKEN_LAYOUT))
    return h

  def _self_attend(self, h, axis, positions):
    """Self-attention along one axis of h [B, T, N, D]."""
    heads = self.num_heads // 2 if self.kind == "parallel" else self.num_heads
    name = axis if len(BLOCKS[self.kind]) > 1 else "attention"
    frames, num_places = h.shape[1:3]
    if axis == "spatial" or positions is None:
      positions = None
    elif axis == "temporal":
      positions = rearrange(positions, "b t -> b 1 t")
    else:
      positions = repeat(positions, "b t -> b (t n)", n=num_places)
    h = rearrange(h, f"b t n d -> {AXES[axis][0]}")
    attend = attention.Attention(
      heads,
      self.attention_bias,
      self.kernel,
      self.sequence_split,
      **self.dtypes,
      name=name,
    )
    # A merged axis is split as its first one is.
    layout = AXES[axis][0].replace("(t n)", "t").split()
    names = dict(zip("btnd", AXES[axis][1], strict=True))
    h = attend(h, positions=positions, names=tuple(names[each] for each in layout))
    h = checkpoint_name(h, "attention_out")
    return rearrange(h, f"{AXES[axis][0]} -> b t n d", t=frames, n=num_places)

  def _cross_attend(self, x, text, mask):
    """Cross-attention of all tokens of a clip to its text."""
    attend = attention.CrossAttention(
      self.num_heads, self.attention_bias, **self.dtypes, name="cross"
    )
    h = attend(rearrange(x, "b t n d -> b (t n) d"), text, mask)
    return rearrange(h, "b (t n) d -> b t n d", t=x.shape[1])

  def _mlp(self, h):
    width = h.shape[-1]
    factor, activate = PERCEPTRONS[self.activation]
    hidden = factor * int(width * self.mlp_ratio)
    h = Linear(hidden, ("embed", "mlp"), **self.dtypes, name="mlp_in")(h)
    return Linear(width, ("mlp", "embed"), **self.dtypes, name="mlp_out")(activate(h))


class BlockStack(nn.Module):
  """All blocks of a transformer: a scan for each group of kinds, parameters stacked.

  The parameters of each kind [layers, ...] are under its name, whatever the fusion.

  Attributes:
    layout: kinds of blocks: "spatial", "temporal", "serial", "parallel", "full".
    fusion: "interleaved", the kinds in turn, or "late", all blocks of a kind first.
    num_layers: blocks of each kind.
    remat: what the backward pass computes again: False or "none"; True or "full";
      "dots", all but products with weights; "offload", which keeps some on the host.
    unroll: layers in one iteration of the scan.
    block: keyword fields of each TransformerBlock.
    keep_outputs: parts whose outputs go into the collection "cache_out": "stack", the
      sum of what all blocks add, or the blocks' "spatial", "temporal", "full", "cross".
    train: whether a backward pass follows; only speed depends on it.
  """

  layout: tuple[str, ...]
  fusion: str
  num_layers: int
  remat: bool | str
  unroll: int
  block: dict[str, Any]
  keep_outputs: tuple[str, ...] = ()
  train: bool = False

  @nn.compact
  def __call__(self, x, signals, time, axes):
    """Tokens [B, T, N, D], after the blocks.

    Args:
      x: tokens [B, T, N, D].
      signals: inputs.Signals, the embedded time and condition.
      time: [B or 1, T, 1, D] or None, positions that are added once, before the first
        attention along time.
      axes: of "spatial", "temporal", "full", those that are attended along; blocks
        without one are skipped.
    """
    if self.has_variable("cache", "stack"):
      added = self.get_variable("cache", "stack")
      return x + placement.constrain(added, TOKEN_LAYOUT)
    before = x
    along = {k: tuple(a for a in BLOCKS[k] if a in axes) for k in self.layout}
    in_time = lambda kind: set(along[kind]) & {"temporal", "full"}
    first_kind = next((k for k in self.layout if in_time(k)), None)

    each = signals.emb if signals.emb is not None and signals.emb.ndim == 4 else None
    per_layer = jnp.arange(self.num_layers), each
    shared = signals if each is None else signals.replace(emb=None)
    for group in FUSIONS[self.fusion](self.layout):
      kinds = [kind for kind in group if along[kind]]

      def layer(stack, x, per_layer, signals, time, kinds=kinds):
        index, emb = per_layer
        signals = signals if emb is None else signals.replace(emb=emb)
        for kind in kinds:
          here = None
          if time is not None and kind == first_kind:
            here = jnp.where(index == 0, time, 0.0).astype(x.dtype)
          fields = dict(keep_outputs=stack.keep_outputs, name=kind)
          block = TransformerBlock(kind, **stack.block, **fields)
          x = _tiled(block, x, signals, along[kind], here, stack.train)
        return x, None

      if kinds:
        x, _ = self._repeat(layer)(self, x, per_layer, shared, time)
    if "stack" in self.keep_outputs:
      added = placement.constrain(x - before, TOKEN_LAYOUT)
      self.put_variable("cache_out", "stack", added)
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


def _tiled(block, x, signals, along, time, train):
  """block(x, signals, along, time), on a CPU tile by tile."""

  def call(block, x, per_frame, text):
    emb, positions, time = per_frame
    return block(x, inputs.Signals(emb, positions, text), along, time)

  attended = {"spatial": {"places"}, "temporal": {"frames"}}
  whole = set().union(*(attended.get(axis, {"frames", "places"}) for axis in along))
  per_frame = signals.emb, signals.positions, time
  hidden = int(x.shape[-1] * block.mlp_ratio)
  rest = dict(attended=whole, hidden=hidden, train=train)
  return cpu.apply_tiled(call, block, x, per_frame, signals.text, **rest)
