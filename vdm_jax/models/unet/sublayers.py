"""The transformer of the U-Net line: a tuple of named sublayers is an architecture.

Each sublayer adds to its input what it makes of the normalised input:

  spatial_self    attention within a frame, or to the frames that `frames` names
  temporal_self   attention along time at one place
  spatial_cross   attention to the text, perhaps to an image besides
  temporal_cross  the same, in a block along time (no place sees another there either)
  feed_forward    a gated perceptron of four times the width

https://arxiv.org/abs/2112.10752 (the first), and the systems named in unet3d.py.
"""

import dataclasses
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from vdm_jax.layers import (
  norms,
  placement,
  positions,
  temporal,
)
from vdm_jax.layers.activations import PERCEPTRONS
from vdm_jax.layers.attention import frame_attention
from vdm_jax.layers.embeddings import TimeEmbedding
from vdm_jax.layers.linear import Linear

SUBLAYERS = (
  "spatial_self",
  "spatial_cross",
  "temporal_self",
  "temporal_cross",
  "feed_forward",
)
# How a place in time is told: not at all, by a sinusoid added before each attention
# along time, by one through a perceptron added to a block's input, or within attention.
POSITIONS = ("none", "sinusoid", "perceptron", *frame_attention.RELATIVE[1:])

# How tokens [B, T, N, D] lie on a mesh between and in attention along time.
TOKEN_LAYOUT = ("batch", "frames", None, None)
TEMPORAL_LAYOUT = ("batch", "space", None, None)


@flax.struct.dataclass
class Signals:
  """What the blocks are told.

  Attributes:
    emb: [B, T or 1, E] float32, of time and all vectors.
    text: (values [B, L, D], mask [B, L]) or None.
    image: (values [B, I, D], mask) or None, for keys of its own.
    places: [B or 1, T], the place of each frame in its video.
    image_only: [B, T] bool or None, True for frames that see no others.
  """

  emb: jax.Array
  text: tuple | None
  image: tuple | None
  places: jax.Array
  image_only: jax.Array | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransformerConfig:
  """Hyper-parameters of one kind of transformer.

  Attributes:
    block: names in SUBLAYERS, in their order.
    depth: blocks, one after the other.
    num_heads, head_dim: of the attentions; one may be left out, then they share the
      width. With both, the width inside is num_heads * head_dim.
    norm_over: the statistics of the group norm before, a key of temporal.STATISTICS.
    projection: before, with a group norm, and after; "linear", or "convolution" of one
      pixel, which only published files tell apart. "none": the sublayers stand alone,
      with group norms in place of layer norms, and with biases of q, k and v.
    frames: whose keys spatial_self sees, a key of frame_attention.FRAMES.
    position: of frames, a name in POSITIONS.
    max_frames: the longest clip that "sinusoid" allows; the distance to which relative
      positions reach.
    image_keys: spatial_cross has keys of its own for image tokens.
    merge: "residual", or "alpha": a learnt share of what was there before.
    zero_init: the projection after starts at zero.
  """

  block: tuple[str, ...] = ("spatial_self", "spatial_cross", "feed_forward")
  depth: int = 1
  num_heads: int | None = None
  head_dim: int | None = None
  norm_over: str = "frame"
  projection: str = "linear"
  frames: str = "self"
  position: str = "none"
  max_frames: int = 0
  image_keys: bool = False
  merge: str = "residual"
  zero_init: bool = False

  def __post_init__(self):
    object.__setattr__(self, "block", tuple(self.block))
    wrong = [name for name in self.block if name not in SUBLAYERS]
    if wrong or not self.block:
      raise ValueError(f"block={self.block}; expected names of {SUBLAYERS}.")
    for name, wanted in (
      ("position", POSITIONS),
      ("norm_over", tuple(temporal.STATISTICS)),
      ("frames", tuple(frame_attention.FRAMES)),
      ("merge", ("residual", "alpha")),
      ("projection", ("linear", "convolution", "none")),
    ):
      if getattr(self, name) not in wanted:
        raise ValueError(f"{name}={getattr(self, name)!r}; expected one of {wanted}.")
    if self.num_heads is None and self.head_dim is None:
      raise ValueError("Give num_heads or head_dim, or both.")

  @property
  def projected(self):
    return self.projection != "none"

  def heads(self, width):
    """(num_heads, head_dim) of attention on `width` features."""
    if self.num_heads and self.head_dim:
      return self.num_heads, self.head_dim
    given = self.num_heads or self.head_dim
    if width % given:
      raise ValueError(
        f"{width} features cannot be split by num_heads={self.num_heads}, "
        f"head_dim={self.head_dim}; give a divisor of the features."
      )
    other = width // given
    return (given, other) if self.num_heads else (other, given)


class SpatialTransformer(nn.Module):
  """[B, T, H, W, C] through the transformers of one place of the network.

  With `inner`, a transformer along time works on the tokens of the first, after each
  of its blocks, within the same projections (Stable Video Diffusion).
  """

  config: TransformerConfig
  inner: TransformerConfig | None = None
  groups: int = 32
  dtype: Any = jnp.float32
  param_dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, signals):
    c = self.config
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    height = x.shape[2]
    tokens = lambda x: rearrange(x, "b t h w c -> b t (h w) c")
    image = lambda x: rearrange(x, "b t (h w) c -> b t h w c", h=height)
    before = x
    if c.projected:
      norm = dict(groups=self.groups, epsilon=1e-6, **dtypes, name="norm")
      x = temporal.group_norm(x, c.norm_over, **norm)
      width = c.num_heads * c.head_dim if c.num_heads and c.head_dim else x.shape[-1]
      x = Linear(width, ("embed", None), **dtypes, name="proj_in")(x)
    x = placement.constrain(tokens(x), TOKEN_LAYOUT)
    for i in range(c.depth):
      x = SublayerStack(c, self.groups, **dtypes, name=f"block_{i}")(x, signals)
      if self.inner is not None:
        along = SublayerStack(
          self.inner, self.groups, **dtypes, name=f"temporal_block_{i}"
        )
        h = along(x, signals)
        mixer = temporal.Mixer(self.param_dtype, name="temporal_mix")
        x = mixer(h, x, image_only(signals, x.ndim))
    x = image(x)
    if c.projected:
      init = {"kernel_init": nn.initializers.zeros} if c.zero_init else {}
      width = before.shape[-1]
      x = Linear(width, (None, "embed"), **init, **dtypes, name="proj_out")(x)
      x = before + x
    if c.merge == "alpha":
      mixer = temporal.Mixer(self.param_dtype, name="mix")
      x = mixer(x, before, image_only(signals, x.ndim))
    return x


class SublayerStack(nn.Module):
  """Tokens [B, T, N, D] through the sublayers, one after the other."""

  config: TransformerConfig
  groups: int = 32
  dtype: Any = jnp.float32
  param_dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, signals):
    c = self.config
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    if c.position == "perceptron":
      width = x.shape[-1]
      told = TimeEmbedding(
        4 * width, width, features=width, param_dtype=self.param_dtype, name="position"
      )(signals.places)
      x = x + rearrange(told, "b t d -> b t 1 d").astype(x.dtype)
    for i, kind in enumerate(c.block):
      x = Sublayer(c, kind, self.groups, **dtypes, name=f"{kind}_{i}")(x, signals)
    return x


class Sublayer(nn.Module):
  """x + sublayer(norm(x)), on tokens [B, T, N, D]."""

  config: TransformerConfig
  kind: str
  groups: int = 32
  dtype: Any = jnp.float32
  param_dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, signals):
    h = self._norm(x)
    if self.kind == "feed_forward":
      return x + self._feed_forward(h)
    if self.kind.endswith("cross"):
      return x + self._cross_attend(h, signals)
    if self.kind == "temporal_self":
      return x + self._along_time(h, signals)
    queries, keys = frame_attention.select_frames(h, self.config.frames)
    h = self._attention(h.shape[-1])(queries, keys)
    return x + rearrange(h, "b f (t n) d -> b (f t) n d", n=x.shape[2])

  def _norm(self, x):
    if self.config.projected:
      return norms.LayerNorm(1e-5, self.param_dtype, name="norm")(x)
    over = "frame" if self.kind == "spatial_self" else "pixel"
    h = rearrange(x, "b t n c -> b t n 1 c")
    rest = dict(groups=self.groups, epsilon=1e-5)
    rest |= dict(dtype=self.dtype, param_dtype=self.param_dtype)
    h = temporal.group_norm(h, over, **rest, name="norm")
    return rearrange(h, "b t n 1 c -> b t n c")

  def _attention(self, width, **fields):
    num_heads, head_dim = self.config.heads(width)
    return frame_attention.SplitAttention(
      num_heads,
      head_dim,
      use_bias=not self.config.projected,
      fused_qkv=not self.config.projected,
      dtype=self.dtype,
      param_dtype=self.param_dtype,
      name="attention",
      **fields,
    )

  def _along_time(self, h, signals):
    """Attention between the frames, at each place."""
    c = self.config
    if c.position == "sinusoid":
      told = positions.sincos_interleaved(signals.places, h.shape[-1])
      h = h + rearrange(told, "b t d -> b t 1 d").astype(h.dtype)
    h = placement.constrain(rearrange(h, "b t n d -> b n t d"), TEMPORAL_LAYOUT)
    fields = {}
    if c.position in frame_attention.RELATIVE[1:]:
      fields = dict(relative=c.position, max_distance=c.max_frames)
    h = placement.constrain(self._attention(h.shape[-1], **fields)(h), TEMPORAL_LAYOUT)
    return placement.constrain(rearrange(h, "b n t d -> b t n d"), TOKEN_LAYOUT)

  def _cross_attend(self, h, signals):
    """Attention of all tokens of a clip to its text, and to its image."""
    if signals.text is None:
      raise ValueError(
        f"{self.kind} reads tokens['text'] (or 'image') of the condition, which has "
        "none; let the conditioner give them."
      )
    values, mask = signals.text
    image = None
    if self.config.image_keys:
      if signals.image is None:
        raise ValueError("image_keys=True needs tokens['image'] in the condition.")
      image, _ = signals.image
    flat = rearrange(h, "b t n d -> b (t n) d")
    out = self._attention(h.shape[-1])(flat, values, mask, image)
    return rearrange(out, "b (t n) d -> b t n d", n=h.shape[2])

  def _feed_forward(self, h):
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    factor, activate = PERCEPTRONS["geglu"]
    width = h.shape[-1]
    h = Linear(factor * 4 * width, ("embed", "mlp"), **dtypes, name="in")(h)
    return Linear(width, ("mlp", "embed"), **dtypes, name="out")(activate(h))


def image_only(signals, rank):
  """[B, T, 1 ...] of that rank, or None."""
  flags = signals.image_only
  return None if flags is None else flags.reshape(flags.shape + (1,) * (rank - 2))
