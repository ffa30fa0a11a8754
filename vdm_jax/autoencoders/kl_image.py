"""The KL autoencoder of Stable Diffusion, applied to every frame of a video.

https://arxiv.org/abs/2112.10752; architecture and parameter names as in diffusers'
AutoencoderKL, with "_" for "." before a number. Its factor 0.18215 is 1 / scale here.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from vdm_jax.autoencoders import base
from vdm_jax.layers.attention import attend
from vdm_jax.layers.convs import Conv
from vdm_jax.layers.linear import Linear
from vdm_jax.layers.resnet import Downsample, GroupNorm, ResnetBlock, Upsample

# The posterior starts narrow: a wide one hides the latents from the decoder, which
# then learns to do without them.
INITIAL_LOGVAR = -6.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class KLImage:
  """Hyper-parameters; the defaults are Stable Diffusion's, 83.7 M parameters.

  Attributes:
    channels: of each level, from the pixels inwards; each level after the first
      halves height and width.
    layers_per_block: residual blocks of a level in the encoder; the decoder has one
      more.
    pixel_channels: of the video.
    groups: of each group norm.
    mid_layers: residual blocks between encoder and latents, and latents and decoder.
    mid_attention: whether single-head attention over the pixels follows the first.
    patch: side of the squares of pixels that become channels at the door.
    chunk: frames that are encoded or decoded at a time, to save memory; None: all.
  """

  channels: tuple[int, ...] = (128, 256, 512, 512)
  layers_per_block: int = 2
  latent_channels: int = 4
  pixel_channels: int = 3
  groups: int = 32
  mid_layers: int = 2
  mid_attention: bool = True
  patch: int = 1
  chunk: int | None = None
  dtype: Any = jnp.float32
  param_dtype: Any = jnp.float32

  def __post_init__(self):
    object.__setattr__(self, "channels", tuple(self.channels))
    wrong = [c for c in self.channels if c < 1 or c % self.groups]
    if wrong or not self.channels:
      raise ValueError(
        f"channels={self.channels} must be multiples of groups={self.groups}, at least "
        "one; change either."
      )
    bounds = dict(layers_per_block=1, mid_layers=0, latent_channels=1)
    for name, least in {**bounds, "pixel_channels": 1, "patch": 1}.items():
      if getattr(self, name) < least:
        raise ValueError(f"{name}={getattr(self, name)} must be at least {least}.")
    if self.chunk is not None and self.chunk < 1:
      raise ValueError(
        f"chunk={self.chunk} must be at least 1, or None for all frames at once."
      )

  @property
  def stride(self):
    """Pixels per latent in time, height, width."""
    side = self.patch * 2 ** (len(self.channels) - 1)
    return 1, side, side

  def init(self, key, video):
    """Parameters for videos of the channels of `video`, [B, T, H, W, C]."""
    self._check(video)
    frame = jnp.zeros((1, *self.stride[1:], self.pixel_channels))
    params = Network(self).init(key, frame)["params"]
    return {**params, "latents": base.identity(self.latent_channels)}

  def encode(self, params, video):
    """Moments of the raw latents, [B, T, H / s, W / s, latent_channels] float32."""
    self._check(video)
    return base.Moments(*self._map_frames(params, video, Network.encode))

  def latents(self, params, moments, key):
    """Latents of unit variance: a sample, or the mean if key is None."""
    return base.normalize(params["latents"], base.sample(moments, key))

  def decode(self, params, latents):
    """[B, T, h, w, latent_channels] of unit variance -> video, float32, unclipped."""
    if latents.ndim != 5 or latents.shape[-1] != self.latent_channels:
      raise ValueError(
        f"latents of shape {latents.shape} must be [B, T, h, w, c] with "
        f"c = latent_channels = {self.latent_channels}."
      )
    z = base.denormalize(params["latents"], latents)
    return self._map_frames(params, z, Network.decode)

  def measure(self, params, moments):
    """`params` with the mean and deviation of these moments' latents as statistics."""
    return {**params, "latents": base.measure(moments)}

  def _map_frames(self, params, x, method):
    variables = {"params": {k: v for k, v in params.items() if k != "latents"}}
    run = lambda frames: Network(self).apply(variables, frames, method=method)
    one = lambda frame: jax.tree.map(lambda y: y[0], run(frame[None]))
    frames = rearrange(x, "b t h w c -> (b t) h w c")
    y = jax.lax.map(one, frames, batch_size=self.chunk) if self.chunk else run(frames)
    back = lambda y: rearrange(y, "(b t) h w c -> b t h w c", t=x.shape[1])
    return jax.tree.map(back, y)

  def _check(self, video):
    base.check(video, self.pixel_channels, self.stride)


class Network(nn.Module):
  """Encoder and decoder on single frames [N, H, W, C]."""

  config: KLImage

  def setup(self):
    c = self.config
    dtypes = dict(dtype=c.dtype, param_dtype=c.param_dtype)
    self.encoder = Encoder(c)
    self.quant_conv = Conv(
      2 * c.latent_channels, (1, 1), bias_init=narrow_posterior, **dtypes
    )
    self.post_quant_conv = Conv(c.latent_channels, (1, 1), **dtypes)
    self.decoder = Decoder(c)

  def __call__(self, x):
    return self.decode(self.encode(x)[0])

  def encode(self, x):
    p = self.config.patch
    x = rearrange(x, "n (h p) (w q) c -> n h w (p q c)", p=p, q=p)
    moments = self.quant_conv(self.encoder(x)).astype(jnp.float32)
    mean, logvar = jnp.split(moments, 2, axis=-1)
    return mean, base.clip_logvar(logvar)

  def decode(self, z):
    p = self.config.patch
    x = self.decoder(self.post_quant_conv(z)).astype(jnp.float32)
    return rearrange(x, "n h w (p q c) -> n (h p) (w q) c", p=p, q=p)


def narrow_posterior(key, shape, dtype):
  """The bias of [mean, logvar]: 0 and INITIAL_LOGVAR."""
  del key
  mean, logvar = jnp.split(jnp.zeros(shape, dtype), 2)
  return jnp.concatenate([mean, logvar + INITIAL_LOGVAR])


class Encoder(nn.Module):
  """[N, H, W, C] -> [N, H / 2^(levels - 1), W / ..., 2 latent_channels]."""

  config: KLImage

  @nn.compact
  def __call__(self, x):
    c = self.config
    dtypes = dict(dtype=c.dtype, param_dtype=c.param_dtype)
    x = Conv(c.channels[0], **dtypes, name="conv_in")(x)
    for i, features in enumerate(c.channels):
      last = i == len(c.channels) - 1
      down = None if last else Downsample
      x = Level(c, features, c.layers_per_block, down, name=f"down_blocks_{i}")(x)
    x = Middle(c, name="mid_block")(x)
    x = nn.silu(GroupNorm(c.groups, **dtypes, name="conv_norm_out")(x))
    return Conv(2 * c.latent_channels, **dtypes, name="conv_out")(x)


class Decoder(nn.Module):
  """[N, h, w, latent_channels] -> [N, H, W, C]."""

  config: KLImage

  @nn.compact
  def __call__(self, z):
    c = self.config
    dtypes = dict(dtype=c.dtype, param_dtype=c.param_dtype)
    x = Conv(c.channels[-1], **dtypes, name="conv_in")(z)
    x = Middle(c, name="mid_block")(x)
    for i, features in enumerate(reversed(c.channels)):
      last = i == len(c.channels) - 1
      up = None if last else Upsample
      x = Level(c, features, c.layers_per_block + 1, up, name=f"up_blocks_{i}")(x)
    x = nn.silu(GroupNorm(c.groups, **dtypes, name="conv_norm_out")(x))
    return Conv(c.pixel_channels * c.patch**2, **dtypes, name="conv_out")(x)


class Level(nn.Module):
  """Residual blocks of one resolution, then the step to the next one, if any."""

  config: KLImage
  features: int
  layers: int
  resample: Any  # Downsample, Upsample or None

  @nn.compact
  def __call__(self, x):
    c = self.config
    dtypes = dict(dtype=c.dtype, param_dtype=c.param_dtype)
    for i in range(self.layers):
      x = ResnetBlock(self.features, c.groups, **dtypes, name=f"resnets_{i}")(x)
    if self.resample is None:
      return x
    name = {Downsample: "downsamplers_0", Upsample: "upsamplers_0"}[self.resample]
    return self.resample(**dtypes, name=name)(x)


class Middle(nn.Module):
  """Block, attention, block ... at the lowest resolution."""

  config: KLImage

  @nn.compact
  def __call__(self, x):
    c = self.config
    dtypes = dict(dtype=c.dtype, param_dtype=c.param_dtype)
    for i in range(c.mid_layers):
      x = ResnetBlock(x.shape[-1], c.groups, **dtypes, name=f"resnets_{i}")(x)
      if i == 0 and c.mid_attention:
        x = PixelAttention(c, name="attentions_0")(x)
    return x


class PixelAttention(nn.Module):
  """x + attention of one head over the pixels of a frame, [N, H, W, C]."""

  config: KLImage

  @nn.compact
  def __call__(self, x):
    c = self.config
    dtypes = dict(dtype=c.dtype, param_dtype=c.param_dtype)
    axes = ("conv_in", "conv_out")
    linear = lambda name: Linear(x.shape[-1], axes, **dtypes, name=name)
    tokens = GroupNorm(c.groups, **dtypes, name="group_norm")(x)
    tokens = rearrange(tokens, "n h w c -> n (h w) 1 c")  # [N, L, 1, C]
    q, k, v = (linear(name)(tokens) for name in ("to_q", "to_k", "to_v"))
    zeros = nn.initializers.zeros
    last = Linear(x.shape[-1], axes, kernel_init=zeros, **dtypes, name="to_out_0")
    out = last(attend(q, k, v))
    return x + rearrange(out, "n (h w) 1 c -> n h w c", h=x.shape[1])
