"""The transformer of the U-Net line: a tuple of named sublayers is an architecture.

Each sublayer is residual, x + sublayer(norm(x)):

  spatial_self    attention within a frame, or to the frames that `frames` names
  temporal_self   attention along time at one place
  spatial_cross   cross-attention to the text, and to an image if `image_keys`
  temporal_cross  the same, in a block along time
  feed_forward    a gated perceptron of four times the width

https://arxiv.org/abs/2112.10752 (the first), and the systems named in unet3d.py.
"""

import dataclasses

import flax.linen as nn
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
from vdm_jax.layers.module import TypedModule, check_choices

SUBLAYERS = (
  "spatial_self",
  "spatial_cross",
  "temporal_self",
  "temporal_cross",
  "feed_forward",
)
# The fields that choose by a name, and the names that there are.
CHOICES = {
  "position": ("none", "sinusoid", "perceptron", *frame_attention.RELATIVE[1:]),
  "norm_over": temporal.STATISTICS,
  "frames": frame_attention.FRAMES,
  "merge": ("residual", "alpha"),
  "projection": ("linear", "convolution", "none"),
}

# Logical names of tokens on a mesh: [B, T, N, D], and [B, N, T, D] along time.
TOKEN_LAYOUT = ("batch", "frames", None, None)
TEMPORAL_LAYOUT = ("batch", "space", None, None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransformerConfig:
  """Hyper-parameters of a transformer in the U-Net, spatial or along time.

  Attributes:
    block: the sublayers of one block, in order: "spatial_self", "spatial_cross",
      "temporal_self", "temporal_cross", "feed_forward".
    depth: number of blocks.
    num_heads, head_dim: of the attentions; one may be left out, then they share the
      width. With both, the width inside is num_heads * head_dim.
    norm_over: statistics of the first norm: over each "frame", "clip" or "pixel".
    projection: into and out of the transformer; "linear", or "convolution" of one
      pixel, which differ in published files only. "none": there are only the
      sublayers, with group norms in place of layer norms and with biases of q, k, v.
    frames: keys of spatial_self: "self", "all", "first_previous" or "first_last".
    position: of frames: "none"; "sinusoid", added before each attention along time;
      "perceptron", a sinusoid through one, added to a block's input; "relative" or
      "transposed", within attention.
    max_frames: the longest clip that "sinusoid" allows; the largest distance that
      relative positions distinguish.
    image_keys: whether spatial_cross has keys and values of its own for image tokens.
    merge: "residual", or "alpha": a learned mixture of the output and the input.
    zero_init: whether the projection out of the transformer starts at zero.
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
    check_choices(self, CHOICES)
    if self.num_heads is None and self.head_dim is None:
      raise ValueError("Give num_heads or head_dim, or both.")

  @property
  def projected(self):
    """Whether there are projections, and layer norms inside: a bool."""
    return self.projection != "none"

  def heads(self, width):
    """(num_heads, head_dim) of attention on tokens with `width` features."""
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


class UNetTransformer(TypedModule):
  """Transformer on features [B, T, H, W, C]: projection in, blocks, projection out.

  Attributes:
    config: TransformerConfig, spatial or along time.
    inner: TransformerConfig of blocks along time after each of its blocks, within the
      same projections, mixed by a learned share (Stable Video Diffusion); or None.
    norm_num_groups: of the group norm.
  """

  config: TransformerConfig
  inner: TransformerConfig | None = None
  norm_num_groups: int = 32

  @nn.compact
  def __call__(self, x, signals):
    """[B, T, H, W, C] of x of that shape; signals: inputs.Signals."""
    c = self.config
    height = x.shape[2]
    before, groups = x, self.norm_num_groups
    if c.projected:
      norm = dict(groups=groups, epsilon=1e-6, **self.dtypes, name="norm")
      x = temporal.group_norm(x, c.norm_over, **norm)
      width = c.num_heads * c.head_dim if c.num_heads and c.head_dim else x.shape[-1]
      x = Linear(width, ("embed", None), **self.dtypes, name="proj_in")(x)
    x = placement.constrain(rearrange(x, "b t h w c -> b t (h w) c"), TOKEN_LAYOUT)
    for i in range(c.depth):
      x = UNetTransformerBlock(c, groups, **self.dtypes, name=f"block_{i}")(x, signals)
      if self.inner is not None:
        along = UNetTransformerBlock(
          self.inner, groups, **self.dtypes, name=f"temporal_block_{i}"
        )
        h = along(x, signals)
        mixer = temporal.AlphaBlender(self.param_dtype, name="temporal_mix")
        x = mixer(h, x, expand_image_only(signals, x.ndim))
    x = rearrange(x, "b t (h w) c -> b t h w c", h=height)
    if c.projected:
      init = {"kernel_init": nn.initializers.zeros} if c.zero_init else {}
      width = before.shape[-1]
      x = Linear(width, (None, "embed"), **init, **self.dtypes, name="proj_out")(x)
      x = before + x
    if c.merge == "alpha":
      mixer = temporal.AlphaBlender(self.param_dtype, name="mix")
      x = mixer(x, before, expand_image_only(signals, x.ndim))
    return x


class UNetTransformerBlock(TypedModule):
  """One block of a transformer on tokens [B, T, N, D]: several sublayers in a row.

  `config` is a TransformerConfig, whose `block` names them, such as "spatial_self";
  `norm_num_groups` are those of each group norm.
  """

  config: TransformerConfig
  norm_num_groups: int = 32

  @nn.compact
  def __call__(self, x, signals):
    """Tokens [B, T, N, D] of x of that shape; signals: inputs.Signals."""
    c, groups = self.config, self.norm_num_groups
    if c.position == "perceptron":
      width = x.shape[-1]
      emb = TimeEmbedding(
        4 * width, width, features=width, param_dtype=self.param_dtype, name="position"
      )(signals.positions)
      x = x + rearrange(emb, "b t d -> b t 1 d").astype(x.dtype)
    for i, kind in enumerate(c.block):
      x = Sublayer(c, kind, groups, **self.dtypes, name=f"{kind}_{i}")(x, signals)
    return x


class Sublayer(TypedModule):
  """One residual sublayer, x + sublayer(norm(x)), on tokens [B, T, N, D].

  `kind` is "spatial_self", "spatial_cross", "temporal_self", "temporal_cross" or
  "feed_forward".
  """

  config: TransformerConfig
  kind: str
  norm_num_groups: int = 32

  @nn.compact
  def __call__(self, x, signals):
    """Tokens [B, T, N, D] of x of that shape; signals: inputs.Signals."""
    h = self._norm(x)
    if self.kind == "feed_forward":
      return x + self._feed_forward(h)
    if self.kind.endswith("cross"):
      return x + self._cross_attend(h, signals)
    if self.kind == "temporal_self":
      return x + self._along_time(h, signals)
    queries, keys = frame_attention.queries_and_keys(h, self.config.frames)
    h = self._attention(h.shape[-1])(queries, keys)
    return x + rearrange(h, "b f (t n) d -> b (f t) n d", n=x.shape[2])

  def _norm(self, x):
    if self.config.projected:
      return norms.LayerNorm(1e-5, self.param_dtype, name="norm")(x)
    over = "frame" if self.kind == "spatial_self" else "pixel"
    h = rearrange(x, "b t n c -> b t n 1 c")
    rest = dict(groups=self.norm_num_groups, epsilon=1e-5, **self.dtypes)
    h = temporal.group_norm(h, over, **rest, name="norm")
    return rearrange(h, "b t n 1 c -> b t n c")

  def _attention(self, width, **fields):
    num_heads, head_dim = self.config.heads(width)
    return frame_attention.UNetAttention(
      num_heads,
      head_dim,
      use_bias=not self.config.projected,
      fused_qkv=not self.config.projected,
      **self.dtypes,
      name="attention",
      **fields,
    )

  def _along_time(self, h, signals):
    """Attention between the frames, at each place."""
    c = self.config
    if c.position == "sinusoid":
      table = positions.sincos_interleaved(signals.positions, h.shape[-1])
      h = h + rearrange(table, "b t d -> b t 1 d").astype(h.dtype)
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
    factor, activate = PERCEPTRONS["geglu"]
    width = h.shape[-1]
    h = Linear(factor * 4 * width, ("embed", "mlp"), **self.dtypes, name="in")(h)
    return Linear(width, ("mlp", "embed"), **self.dtypes, name="out")(activate(h))


def expand_image_only(signals, rank):
  """signals.image_only as [B, T, 1, ...] with `rank` axes, or None if there is none."""
  flags = signals.image_only
  return None if flags is None else flags.reshape(flags.shape + (1,) * (rank - 2))
