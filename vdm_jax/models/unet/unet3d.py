"""The U-Net of video: Stable Diffusion's, with layers along time, as data.

Systems differ in what follows a residual block in a cell of this network, over what the
norms take their statistics, and in how a frame's position enters:

  AlignYourLatents  https://arxiv.org/abs/2304.08818
  LVDM              https://arxiv.org/abs/2211.13221
  ModelScope        https://arxiv.org/abs/2308.06571
  VideoCrafter      https://arxiv.org/abs/2310.19512, https://arxiv.org/abs/2401.09047
  Stable Video Diffusion  https://arxiv.org/abs/2311.15127
  AnimateDiff       https://arxiv.org/abs/2307.04725
"""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp

from vdm_jax.layers import embeddings, placement, temporal
from vdm_jax.layers.convs import Conv
from vdm_jax.layers.module import Module, TypedModule, check_choices
from vdm_jax.models import inputs
from vdm_jax.models.unet import sublayers
from vdm_jax.models.unet.sublayers import TransformerConfig

# The fields that choose by a name, and the names that there are.
CHOICES = {
  "norm_over": tuple(temporal.STATISTICS),
  "temporal_resnet": ("none", "alpha", "four", "volume"),
  "temporal_at": ("attention", "levels", "levels and middle", "inside"),
  "one_frame": ("clip", "image"),
  "times": ("frame", "clip"),
}

# The split of a video on a mesh: of frames, or for layers along time, of rows. Where
# a convolution along time is left split, the compiler of jax 0.10.2 gives its weights a
# wrong gradient on meshes that split frames and repeat over another axis.
SPATIAL_LAYOUT = ("batch", "frames", None, None, None)
TEMPORAL_LAYOUT = ("batch", None, "space", None, None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Architecture:
  """Hyper-parameters of a video U-Net; the defaults are Stable Diffusion 1's.

  Attributes:
    channels: of each level; height and width are halved from one to the next.
    layers: cells of a level on the way down; one more on the way up.
    attention: for each level, whether its cells have spatial transformers.
    spatial: TransformerConfig of these.
    temporal: TransformerConfig of transformers along time, or None.
    temporal_at: where those are: "attention", in each cell with a spatial one;
      "levels", in all cells but the middle's; "levels and middle", in all; "inside",
      behind each block of the spatial ones.
    temporal_in: TransformerConfig of one behind the first convolution, or None.
    temporal_resnet: what follows a residual block: "none"; "alpha", one along time,
      mixed in by a learned share; "four" convolutions along time; "volume", a 3D one.
    norm_over: statistics of a norm: over each "frame", "clip", or "pixel" along time.
    scale_shift: time scales and shifts the second norm of a residual block (FiLM),
      and is not added before it.
    vectors: names of cond.vectors [B], each embedded by a perceptron of its own and
      added to the embedding of time.
    joint: names of cond.vectors that share one perceptron: numbers [B], embedded as
      sinusoids, or features [B, joint_frequencies] in the place of a sinusoid.
    joint_frequencies: features of each number's sinusoid there.
    tables: (name, size) of integers [B] below that size, each embedded by a table.
    mask_channel: whether the mask of known frames is a channel of the input.
    one_frame: whether a clip of one frame passes the layers along time ("clip") or
      skips them ("image").
    times: "frame", each has its own time; "clip", all have the latest of them, for
      networks of one time (known frames have time 0).
    groups, epsilon: of the norms.
    level_epsilon: of the residual blocks of the decoder, and of the encoder's levels
      with transformers, 1e-6 in diffusers' SVD; None: `epsilon`.
  """

  out_channels: int = 4
  channels: tuple[int, ...] = (320, 640, 1280, 1280)
  layers: int = 2
  attention: tuple[bool, ...] = (True, True, True, False)
  spatial: TransformerConfig = TransformerConfig(num_heads=8)
  temporal: TransformerConfig | None = None
  temporal_at: str = "attention"
  temporal_in: TransformerConfig | None = None
  temporal_resnet: str = "none"
  norm_over: str = "frame"
  scale_shift: bool = False
  vectors: tuple[str, ...] = ()
  joint: tuple[str, ...] = ()
  joint_frequencies: int = 256
  tables: tuple[tuple[str, int], ...] = ()
  mask_channel: bool = False
  one_frame: str = "clip"
  times: str = "frame"
  groups: int = 32
  epsilon: float = 1e-5
  level_epsilon: float | None = None

  def __post_init__(self):
    for name in ("channels", "attention", "vectors", "joint", "tables"):
      object.__setattr__(self, name, tuple(getattr(self, name)))
    check_choices(self, CHOICES)
    if len(self.attention) != len(self.channels):
      raise ValueError(
        f"attention={self.attention} for channels={self.channels}; give one for each "
        "level."
      )

  def has_temporal(self, level):
    """Whether cells of a level, None for the middle, have a transformer along time.

    One of their own, outside the spatial one; `level` is an index into `channels`.
    """
    if self.temporal is None or self.temporal_at == "inside":
      return False
    if self.temporal_at == "attention":
      return level is None or self.attention[level]
    return level is not None or self.temporal_at == "levels and middle"


class UNetModule(TypedModule):
  """Base of the U-Net's modules, with the fields that all of them share.

  `config` is an Architecture; with the `remat` "full", or True, the backward pass
  computes the inside of each cell again.
  """

  config: Architecture
  remat: bool | str = "none"

  def fields(self):
    """dict(config, remat, dtype, param_dtype), arguments for a module in this one."""
    return dict(config=self.config, remat=self.remat, **self.dtypes)

  def skips_temporal(self, x):
    """Whether layers along time are skipped for a clip x [B, T, H, W, C]: a bool."""
    image = x.shape[1] == 1 and self.config.one_frame == "image"
    return image and not self.is_initializing()  # all parameters are made

  def _cell(self, features, level, in_level=False, **fields):
    """A Cell with the transformers of a level; None is the middle."""
    check_choices(self, {"remat": (True, False, "none", "full")})
    c, make = self.config, nn.remat(Cell) if self.remat in (True, "full") else Cell
    attention = level is None or c.attention[level]
    fields = dict(attention=attention, temporal=c.has_temporal(level)) | fields
    return make(features=features, in_level=in_level, **self.fields(), **fields)


class UNet3D(Module, UNetModule):
  """Video U-Net: (x [B, T, H, W, C], t, cond) -> F [B, T, H, W, out_channels].

  Its fields are `config`, an Architecture, and `remat`, "full" to compute the inside
  of each cell again in the backward pass, or "none".
  """

  @nn.compact
  def __call__(self, x, t, cond, *, train=False, residuals=None):
    """The network's output F [B, T, H, W, out_channels] in float32.

    Args:
      x: noisy video [B, T, H, W, C], for any T, H and W.
      t: diffusion time in the network's units, [B], [B, 1] or [B, T].
      cond: tokens["text"] for spatial_cross (tokens["image"] if there is no text);
        tokens["image"] also for image_keys; the vectors that `config` names; channels,
        stacked on x in the order of their names; mask; positions, for sinusoids and
        perceptrons of time (relative attention counts the frames of x);
        vectors["image_only"] [B] or [B, T], True for frames that are images.
      residuals: of a control network, ([one for each skip connection], the middle's),
        [B, T, h, w, c] each, added to them; or None.
    """
    del train
    frames, mask = x.shape[1], self.config.mask_channel
    x = inputs.stack_channels(x, cond, mask_channel=mask, dtype=self.dtype)
    signals = ConditionEmbedding(**self.fields(), name="embed")(t, cond, frames)
    skips, x = UNetEncoder(**self.fields(), name="encoder")(x, signals)
    if residuals is not None:
      skips = [s + r for s, r in zip(skips, residuals[0], strict=True)]
      x = x + residuals[1]
    return UNetDecoder(**self.fields(), name="decoder")(x, skips, signals).astype(
      jnp.float32
    )


class ConditionEmbedding(UNetModule):
  """Embeds time and condition: (t, cond, num_frames) -> inputs.Signals for blocks."""

  @nn.compact
  def __call__(self, t, cond, num_frames):
    """inputs.Signals: emb [B, T or 1, E] float32, text and image tokens, positions.

    t is [B], [B, 1] or [B, T], cond a Conditioning, num_frames T.
    """
    c = self.config
    width, rest = 4 * c.channels[0], dict(param_dtype=self.param_dtype)
    t = t[:, None] if t.ndim == 1 else t
    t = t.max(axis=1, keepdims=True) if c.times == "clip" else t
    perceptron = lambda **fields: embeddings.TimeEmbedding(width, **fields, **rest)
    own = dict(num_frequencies=c.channels[0])
    emb = perceptron(**own, name="time")(t)  # [B, T or 1, E]
    number = lambda name: jnp.asarray(cond.vectors[name], jnp.float32)
    for name in c.vectors:
      emb += perceptron(**own, name=name)(number(name))[:, None]
    if c.joint:
      parts = [number(name) for name in c.joint]
      wave = lambda x: x if x.ndim == 2 else embeddings.sinusoid(x, c.joint_frequencies)
      joint = perceptron(num_frequencies=0, name="_".join(c.joint))
      emb += joint(jnp.concatenate([wave(x) for x in parts], axis=-1))[:, None]
    for name, size in c.tables:
      table = embeddings.LabelEmbedding(size - 1, width, **rest, name=name)
      emb += table(cond.vectors[name])[:, None]
    return inputs.Signals(
      emb=emb,
      text=self._tokens(cond, "text") or self._tokens(cond, "image"),
      image=self._tokens(cond, "image"),
      positions=self._places(cond, num_frames),
      image_only=self._image_only(cond, num_frames),
    )

  def _tokens(self, cond, name):
    if name not in cond.tokens:
      return None
    return cond.tokens[name].values.astype(self.dtype), cond.tokens[name].mask

  def _places(self, cond, num_frames):
    """[B or 1, T]: positions of the frames, from 0 and within the learnt ones."""
    parts = (self.config.temporal, self.config.temporal_in)
    sinusoids = [part for part in parts if part and part.position == "sinusoid"]
    longest = min((p.max_frames for p in sinusoids if p.max_frames), default=None)
    if longest and num_frames > longest:
      raise ValueError(
        f"{num_frames} frames; this network has learnt positions of {longest} "
        "(max_frames). Sample longer videos with the wrapper denoise.windows(size="
        f"{longest}), or raise max_frames to let it guess."
      )
    if cond.positions is None:
      return jnp.arange(num_frames)[None]
    if not longest:
      return cond.positions
    # Further apart than learnt: interpolated, https://arxiv.org/abs/2306.15595.
    places = cond.positions - cond.positions.min(axis=1, keepdims=True)
    furthest = jnp.maximum(places.max(axis=1, keepdims=True), longest - 1)
    return places * ((longest - 1) / furthest)

  def _image_only(self, cond, num_frames):
    if "image_only" not in cond.vectors:
      return None
    flags = jnp.asarray(cond.vectors["image_only"], bool)
    flags = flags[:, None] if flags.ndim == 1 else flags
    return jnp.broadcast_to(flags, (flags.shape[0], num_frames))


class UNetEncoder(UNetModule):
  """A U-Net down to its middle: x -> ([skip connections], middle), [B, T, h, w, c]."""

  @nn.compact
  def __call__(self, x, signals, extra=None):
    """([skip connections], middle), features [B, T, h, w, c] each.

    Args:
      x: [B, T, H, W, C] with all that is stacked on it.
      signals: inputs.Signals of (t, cond).
      extra: [B, T, H, W, channels[0]], added behind the first convolution, or None.
    """
    c = self.config
    x = placement.constrain(x, SPATIAL_LAYOUT)
    x = temporal.convolution(x, c.channels[0], (3, 3), **self.dtypes, name="conv_in")
    x = x if extra is None else x + extra
    if c.temporal_in is not None and not self.skips_temporal(x):
      x = sublayers.UNetTransformer(
        c.temporal_in, norm_num_groups=c.groups, **self.dtypes, name="temporal_in"
      )(x, signals)
    skips = [x]
    for i, features in enumerate(c.channels):
      for j in range(c.layers):
        x = self._cell(features, i, c.attention[i], name=f"down_{i}_{j}")(x, signals)
        skips.append(x)
      if i < len(c.channels) - 1:
        half = Conv(
          features,
          stride=2,
          padding=((1, 1),) * 2,
          **self.dtypes,
          name=f"downsample_{i}",
        )
        x = temporal.per_frame(half, x)
        skips.append(x)
    x = self._cell(x.shape[-1], None, name="middle_0")(x, signals)
    bare = dict(attention=False, temporal=False)
    x = self._cell(x.shape[-1], None, **bare, name="middle_1")(x, signals)
    return skips, x


class UNetDecoder(UNetModule):
  """A U-Net up from its middle, with skip connections: F [B, T, H, W, out_channels]."""

  @nn.compact
  def __call__(self, x, skips, signals):
    """[B, T, H, W, out_channels] of the middle x [B, T, h, w, c].

    `skips` is the list of skip connections, `signals` the inputs.Signals of (t, cond).
    """
    c = self.config
    skips = list(skips)
    for i, features in reversed(list(enumerate(c.channels))):
      for j in range(c.layers + 1):
        x = jnp.concatenate([x, skips.pop()], axis=-1)
        x = self._cell(features, i, True, name=f"up_{i}_{j}")(x, signals)
      if i > 0:
        x = resize_nearest(x, skips[-1].shape[2:4])
        x = temporal.convolution(
          x, features, (3, 3), **self.dtypes, name=f"upsample_{i}"
        )
    norm = dict(groups=c.groups, epsilon=c.epsilon, **self.dtypes, name="norm_out")
    x = nn.silu(temporal.group_norm(x, c.norm_over, **norm))
    zeros = nn.initializers.zeros
    return temporal.convolution(
      x, c.out_channels, (3, 3), kernel_init=zeros, **self.dtypes, name="conv_out"
    )


class Cell(UNetModule):
  """A residual block on [B, T, H, W, C], layers along time and transformers after it.

  Attributes:
    features: output channels.
    attention: whether there is a spatial transformer.
    temporal: whether there is a transformer along time behind it.
    in_level: whether norms have the `level_epsilon` of `config`.
  """

  features: int = 0
  attention: bool = False
  temporal: bool = False
  in_level: bool = False

  @nn.compact
  def __call__(self, x, signals):
    """[B, T, H, W, features] of x [B, T, H, W, C]; signals: inputs.Signals."""
    c, emb, in_time = self.config, signals.emb, not self.skips_temporal(x)
    epsilon = (self.in_level and c.level_epsilon) or c.epsilon
    block = dict(
      groups=c.groups, epsilon=epsilon, scale_shift=c.scale_shift, **self.dtypes
    )
    x = placement.constrain(x, SPATIAL_LAYOUT)
    x = temporal.VideoResnetBlock(
      self.features, norm_over=c.norm_over, **block, name="resnet"
    )(x, emb)
    if c.temporal_resnet in ("four", "volume") and in_time:
      kind = dict(count=1, kernel=(3, 3, 3)) if c.temporal_resnet == "volume" else {}
      rest = dict(groups=c.groups, epsilon=c.epsilon, **self.dtypes)
      convolve = temporal.TemporalConvolutions(
        **kind, **rest, name="temporal_convolutions"
      )
      x = apply_with_whole_clips(convolve, x)
    if c.temporal_resnet == "alpha" and in_time:
      block = temporal.VideoResnetBlock(
        kernel=(3, 1, 1), norm_over="clip", **block, name="temporal_resnet"
      )
      along = apply_with_whole_clips(lambda x: block(x, emb), x)
      mixer = temporal.AlphaBlender(self.param_dtype, name="temporal_resnet_mix")
      x = mixer(along, x, sublayers.expand_image_only(signals, x.ndim))
    inside = c.temporal_at == "inside" and in_time
    if self.attention:
      x = sublayers.UNetTransformer(
        c.spatial,
        c.temporal if inside else None,
        c.groups,
        **self.dtypes,
        name="transformer",
      )(x, signals)
    if self.temporal and in_time:
      x = sublayers.UNetTransformer(
        c.temporal, norm_num_groups=c.groups, **self.dtypes, name="temporal_transformer"
      )(x, signals)
    return x


def apply_with_whole_clips(layer, x):
  """layer(x) of x [B, T, H, W, C], for which a mesh splits rows and not frames."""
  x = placement.constrain(placement.constrain(x, SPATIAL_LAYOUT), TEMPORAL_LAYOUT)
  return placement.constrain(
    placement.constrain(layer(x), TEMPORAL_LAYOUT), SPATIAL_LAYOUT
  )


def resize_nearest(x, size):
  """Nearest-neighbour upsampling of x [B, T, h, w, C] to [B, T, *size, C]."""
  for axis, wanted in zip((2, 3), size, strict=True):
    here = x.shape[axis]
    if wanted == 2 * here:
      x = jnp.repeat(x, 2, axis=axis)
    elif wanted != here:
      x = jnp.take(x, jnp.arange(wanted) * here // wanted, axis=axis)
  return x
