"""The KL autoencoder of Stable Diffusion, applied to every frame of a video.

https://arxiv.org/abs/2112.10752; architecture and parameter names as in diffusers'
AutoencoderKL, with "_" for "." before a number. Its factor 0.18215 is 1 / scale here.
SDXL's, SD3's and FLUX's are other values of the same fields.
"""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from vdm_jax.autoencoders import base, tiling
from vdm_jax.layers import cpu, placement
from vdm_jax.layers.activations import ACTIVATIONS
from vdm_jax.layers.attention.attention import attend
from vdm_jax.layers.convs import Conv
from vdm_jax.layers.linear import Linear
from vdm_jax.layers.resnet import Downsample, GroupNorm, ResnetBlock, Upsample

# The posterior starts narrow: a wide one hides the latents from the decoder, which
# then learns to do without them.
INITIAL_LOGVAR = -6.0

# Logical axes of frames [N, H, W, C]: split over the mesh axes of two rules, and where
# that does not fill the mesh, also along height, where convolutions exchange edges. A
# shard has at least these sizes: thinner ones would be all edge, and the compiler's
# convolution of one row on each of two devices was wrong in jax 0.10.2, as it was for
# two rows with stride 2.
FRAME_AXES = ("batch", "frames")
BY_FRAME = (FRAME_AXES, None, None, None)
BY_FRAME_AND_HEIGHT = (FRAME_AXES, "height", None, None)
MIN_SHARD = (1, 4, 1, 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class KLImage:
  """Stable Diffusion's KL autoencoder, on each frame of a video.

  The defaults are Stable Diffusion's, 83.7 M parameters.

  Attributes:
    channels: of each level, from the pixels to the latents; each level after the
      first halves height and width.
    layers_per_block: residual blocks of an encoder level; the decoder's have one more.
    latent_channels: of the latents.
    pixel_channels: of the video.
    output_channels: of the decoded video; None: pixel_channels.
    groups: of each group norm.
    mid_layers: residual blocks between encoder and latents, and latents and decoder.
    mid_attention: whether single-head attention over the pixels follows the first of
      these blocks.
    quant_conv: whether a 1 x 1 convolution follows the encoder.
    post_quant_conv: whether another one precedes the decoder.
    activation: of the residual blocks, a name in `layers.activations.ACTIVATIONS`.
    patch: side of the squares of pixels that become channels before the first layer.
    chunk: frames that a device encodes or decodes at a time, to save memory; None: all,
      or on one CPU as many as its cache holds.
    tile: side in latents of the tiles in which larger frames are processed; None: no
      tiles. diffusers' `enable_tiling` takes sample_size / stride.
    overlap: share of a tile's side that it has in common with the next one.
    sample_size: side in pixels of the training data. Not used here; kept for `tile` and
      for diffusers' config.json.
    std_factor: diffusers' scaling_factor where it divides latents_std. Not used here:
      the quotient is in the parameters; kept for config.json.
    force_upcast: a `dtype` of float16, too narrow for the weights, becomes float32.
  """

  channels: tuple[int, ...] = (128, 256, 512, 512)
  layers_per_block: int = 2
  latent_channels: int = 4
  pixel_channels: int = 3
  output_channels: int | None = None
  groups: int = 32
  mid_layers: int = 2
  mid_attention: bool = True
  quant_conv: bool = True
  post_quant_conv: bool = True
  activation: str = "silu"
  patch: int = 1
  chunk: int | None = None
  tile: int | None = None
  overlap: float = 0.25
  sample_size: int = 512
  std_factor: float = 1.0
  force_upcast: bool = True
  dtype: Any = jnp.float32
  param_dtype: Any = jnp.float32

  dtypes = base.dtypes
  latents = base.normalized_latents
  with_latent_statistics = base.with_latent_statistics

  def __post_init__(self):
    object.__setattr__(self, "channels", tuple(self.channels))
    wrong = [c for c in self.channels if c < 1 or c % self.groups]
    if wrong or not self.channels:
      raise ValueError(
        f"channels={self.channels} must be multiples of groups={self.groups}, at least "
        "one; change either."
      )
    ones = ("layers_per_block", "latent_channels", "pixel_channels", "patch", "chunk")
    for name, least in {**dict.fromkeys(ones, 1), "mid_layers": 0}.items():
      value = getattr(self, name)
      if value is not None and value < least:
        raise ValueError(f"{name}={value} must be at least {least}.")
    if self.activation not in ACTIVATIONS:
      raise ValueError(
        f"activation={self.activation!r} is unknown; there are {list(ACTIVATIONS)}."
      )
    if self.tile is not None:
      tiling.check_tile(self.tile, self.overlap)
    if self.force_upcast and jnp.dtype(self.dtype) == jnp.float16:
      object.__setattr__(self, "dtype", jnp.float32)

  @property
  def stride(self):
    """Pixels per latent in (time, height, width)."""
    side = self.patch * 2 ** (len(self.channels) - 1)
    return 1, side, side

  def init(self, key, video):
    """New parameters, a nested dict; `video` [B, T, H, W, C] is checked only."""
    self._check(video)
    frame = jnp.zeros((1, *self.stride[1:], self.pixel_channels))
    params = KLImageNetwork(self).init(key, frame)["params"]
    return {**params, "latents": base.identity_statistics(self.latent_channels)}

  def encode(self, params, video):
    """Moments of raw latents [B, t, h, w, c] of a video [B, T, H, W, C] in [-1, 1]."""
    self._check(video)
    moments = self._map_frames(params, video, KLImageNetwork.encode, self.stride[1], 1)
    return base.moments_from_stacked(moments)

  def decode(self, params, latents):
    """The video [B, T, H, W, C], float32, unclipped, of latents of unit variance."""
    z = base.denormalize_latents(self, params, latents)
    return self._map_frames(params, z, KLImageNetwork.decode, 1, self.stride[1])

  def _map_frames(self, params, x, method, before, after):
    """`method` on every frame; it makes sides of `after` pixels from `before`."""
    variables = base.network_variables(params)

    def run(variables, frames):
      run = lambda x: KLImageNetwork(self).apply(variables, x, method=method)
      if self.tile:
        sides = self.tile * before, self.tile * after
        whole = lambda tile: placement.constrain(tile, BY_FRAME)
        one = lambda tile: whole(run(whole(tile)))
        return tiling.map_tiles(one, frames, sides=sides, overlap_share=self.overlap)
      return run(frames)

    def chunked(size, variables, frames):
      return _in_chunks(functools.partial(run, variables), frames, size)

    frames = placement.constrain(rearrange(x, "b t h w c -> (b t) h w c"), BY_FRAME)
    map_frames = functools.partial(chunked, self.chunk)
    if self.chunk is None and cpu.on_one_cpu():
      n, height, width, _ = frames.shape
      pixels = height * width * (after // self.patch or 1) ** 2
      few = functools.partial(chunked, cpu.block_size(n, 4 * pixels * self.channels[0]))
      map_frames = cpu.blocked_unless_differentiated(few, run)
    y = map_frames(variables, frames)
    return rearrange(y, "(b t) h w c -> b t h w c", t=x.shape[1])

  def _check(self, video):
    base.check_video(video, self.pixel_channels, self.stride)


def _in_chunks(run, frames, size):
  """run(frames) [N, H, W, C], at most `size` frames of each device at a time."""
  devices = placement.num_shards(len(frames), FRAME_AXES)
  here = len(frames) // devices
  if size is None or size >= here:
    return run(frames)
  whole = here - here % size
  # Every chunk takes the next frames of each device: none leaves its device.
  frames = rearrange(frames, "(d n) h w c -> n d h w c", d=devices)
  chunks = rearrange(frames[:whole], "(k n) d h w c -> k (d n) h w c", n=size)
  done = jax.lax.map(run, chunks)
  parts = [rearrange(done, "k (d n) h w c -> d (k n) h w c", d=devices)]
  if whole < here:
    rest = run(rearrange(frames[whole:], "n d h w c -> (d n) h w c"))
    parts.append(rearrange(rest, "(d n) h w c -> d n h w c", d=devices))
  return rearrange(jnp.concatenate(parts, axis=1), "d n h w c -> (d n) h w c")


class KLImageNetwork(nn.Module):
  """Frames [N, H, W, C] -> moments [N, h, w, 2 c] -> frames, for a KLImage `config`."""

  config: KLImage

  def setup(self):
    c = self.config
    self.encoder = Encoder(c)
    if c.quant_conv:
      features = 2 * c.latent_channels
      self.quant_conv = Conv(
        features, (1, 1), bias_init=narrow_posterior_bias_init, **c.dtypes
      )
    if c.post_quant_conv:
      self.post_quant_conv = Conv(c.latent_channels, (1, 1), **c.dtypes)
    self.decoder = Decoder(c)

  def __call__(self, x):
    mean, _ = jnp.split(self.encode(x), 2, axis=-1)
    return self.decode(mean)

  def encode(self, x):
    """Mean and logvar stacked, [N, h, w, 2 latent_channels] float32, of frames x."""
    p = self.config.patch
    x = rearrange(x, "n (h p) (w q) c -> n h w (p q c)", p=p, q=p)
    x = self.encoder(x)
    return (self.quant_conv(x) if self.config.quant_conv else x).astype(jnp.float32)

  def decode(self, z):
    """Frames [N, H, W, output_channels] float32 of raw latents z [N, h, w, c]."""
    p = self.config.patch
    z = self.post_quant_conv(z) if self.config.post_quant_conv else z
    x = self.decoder(z).astype(jnp.float32)
    return rearrange(x, "n h w (p q c) -> n (h p) (w q) c", p=p, q=p)


def narrow_posterior_bias_init(key, shape, dtype):
  """Initializer of a bias [mean, logvar] of the posterior, two halves: 0 and -6."""
  del key
  mean, logvar = jnp.split(jnp.zeros(shape, dtype), 2)
  return jnp.concatenate([mean, logvar + INITIAL_LOGVAR])


class Encoder(nn.Module):
  """Frames [N, H, W, C] -> [N, h, w, 2 latent_channels], h = H / 2^(levels - 1)."""

  config: KLImage

  @nn.compact
  def __call__(self, x):
    c = self.config
    x = placement.constrain(x, BY_FRAME_AND_HEIGHT, MIN_SHARD)
    x = Conv(c.channels[0], **c.dtypes, name="conv_in")(x)
    for i, features in enumerate(c.channels):
      last = i == len(c.channels) - 1
      down = None if last else Downsample
      x = Level(c, features, c.layers_per_block, down, name=f"down_blocks_{i}")(x)
    x = MidBlock(c, name="mid_block")(x)
    x = nn.silu(GroupNorm(c.groups, **c.dtypes, name="conv_norm_out")(x))
    bias = nn.initializers.zeros if c.quant_conv else narrow_posterior_bias_init
    last = Conv(2 * c.latent_channels, bias_init=bias, **c.dtypes, name="conv_out")
    return last(x)


class Decoder(nn.Module):
  """Latents [N, h, w, latent_channels] -> [N, H, W, output_channels patch^2]."""

  config: KLImage

  @nn.compact
  def __call__(self, z):
    c = self.config
    z = placement.constrain(z, BY_FRAME_AND_HEIGHT, MIN_SHARD)
    x = Conv(c.channels[-1], **c.dtypes, name="conv_in")(z)
    x = MidBlock(c, name="mid_block")(x)
    for i, features in enumerate(reversed(c.channels)):
      last = i == len(c.channels) - 1
      up = None if last else Upsample
      x = Level(c, features, c.layers_per_block + 1, up, name=f"up_blocks_{i}")(x)
    x = nn.silu(GroupNorm(c.groups, **c.dtypes, name="conv_norm_out")(x))
    channels = c.output_channels or c.pixel_channels
    return Conv(channels * c.patch**2, **c.dtypes, name="conv_out")(x)


class Level(nn.Module):
  """Residual blocks of one resolution, then down- or upsampling: [N, h, w, C].

  `layers` blocks of `features` channels; `resample`: Downsample, Upsample or None.
  """

  config: KLImage
  features: int
  layers: int
  resample: Any  # Downsample, Upsample or None

  @nn.compact
  def __call__(self, x):
    c = self.config
    x = placement.constrain(x, BY_FRAME_AND_HEIGHT, MIN_SHARD)
    for i in range(self.layers):
      x = _resnet(c, self.features, i)(x)
    if self.resample is None:
      return x
    name = {Downsample: "downsamplers_0", Upsample: "upsamplers_0"}[self.resample]
    return self.resample(**c.dtypes, name=name)(x)


def _resnet(c, features, i):
  rest = dict(activation=c.activation, **c.dtypes, name=f"resnets_{i}")
  return ResnetBlock(features, c.groups, **rest)


class MidBlock(nn.Module):
  """Residual blocks and attention at the lowest resolution, [N, h, w, C]."""

  config: KLImage

  @nn.compact
  def __call__(self, x):
    c = self.config
    x = placement.constrain(x, BY_FRAME_AND_HEIGHT, MIN_SHARD)
    for i in range(c.mid_layers):
      x = _resnet(c, x.shape[-1], i)(x)
      if i == 0 and c.mid_attention:
        x = PixelAttention(c, name="attentions_0")(x)
    return x


class PixelAttention(nn.Module):
  """x + attention of one head over the pixels of each frame, [N, H, W, C]."""

  config: KLImage

  @nn.compact
  def __call__(self, x):
    c = self.config
    axes = ("conv_in", "conv_out")
    linear = lambda name: Linear(x.shape[-1], axes, **c.dtypes, name=name)
    tokens = GroupNorm(c.groups, **c.dtypes, name="group_norm")(x)
    tokens = rearrange(tokens, "n h w c -> n (h w) 1 c")  # [N, L, 1, C]
    q, k, v = (linear(name)(tokens) for name in ("to_q", "to_k", "to_v"))
    zeros = nn.initializers.zeros
    last = Linear(x.shape[-1], axes, kernel_init=zeros, **c.dtypes, name="to_out_0")
    out = last(attend(q, k, v))
    return x + rearrange(out, "n (h w) 1 c -> n h w c", h=x.shape[1])
