"""LVDM's autoencoder: a video in three dimensions, fewer frames and smaller ones.

https://arxiv.org/abs/2211.13221. Convolutions repeat the edge beyond it, group norms
take their statistics over the clip; published latents are z' = scale (z + shift),

  Sky Timelapse   scale 0.33422927,  shift 1.4606637
  Taichi-HD       scale 0.175733933, shift 0.03291025
  UCF-101         scale 0.220142075, shift 0.5837740898

which here are statistics of the latents: `statistics_from_published(scale, shift)`.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from vdm_jax.autoencoders import base
from vdm_jax.layers import convs, temporal


@dataclasses.dataclass(frozen=True, kw_only=True)
class KLVideo:
  """LVDM's autoencoder: clips by 3-D convolutions.

  The defaults are the published ones: 16 x 256 x 256 -> 4 x 32 x 32.

  Attributes:
    width: channels of the first convolution, doubled with each halving of the size.
    stride: pixels per latent in (time, height, width), powers of 2.
    latent_channels, pixel_channels: of the latents and of the video.
    groups: of each group norm.
    z_channels: of the encoder's output before its last layer, of one pixel, and of the
      decoder's input; 0 is as many as the latents have, LVDM's embed_dim.
  """

  width: int = 32
  stride: tuple[int, int, int] = (4, 8, 8)
  latent_channels: int = 4
  pixel_channels: int = 3
  groups: int = 32
  z_channels: int = 0
  dtype: Any = jnp.float32
  param_dtype: Any = jnp.float32

  dtypes = base.dtypes
  latents = base.normalized_latents
  with_latent_statistics = base.with_latent_statistics

  def __post_init__(self):
    object.__setattr__(self, "stride", tuple(self.stride))
    if any(n < 1 or n & (n - 1) for n in self.stride) or max(self.stride) < 2:
      raise ValueError(
        f"stride={self.stride} must be powers of 2, one of them above 1."
      )

  @property
  def levels(self):
    """The stride of each level of the encoder, [(time, height, width)]."""
    depth = max(self.stride).bit_length() - 1
    return [tuple(1 + (n >> i > 1) for n in self.stride) for i in range(depth)]

  def init(self, key, video):
    """New parameters, a nested dict; `video` [B, T, H, W, C] is checked only."""
    base.check_video(video, self.pixel_channels, self.stride)
    clip = jnp.zeros((1, *self.stride, self.pixel_channels))
    params = KLVideoNetwork(self).init(key, clip)["params"]
    return {**params, "latents": base.identity_statistics(self.latent_channels)}

  def encode(self, params, video):
    """Moments of raw latents [B, t, h, w, c] of a video [B, T, H, W, C] in [-1, 1]."""
    base.check_video(video, self.pixel_channels, self.stride)
    moments = self._run(params, video, KLVideoNetwork.encode)
    return base.moments_from_stacked(moments)

  def decode(self, params, latents):
    """The video [B, T, H, W, C], float32, unclipped, of latents of unit variance."""
    z = base.denormalize_latents(self, params, latents)
    return self._run(params, z, KLVideoNetwork.decode)

  def statistics_from_published(self, scale, shift):
    """{"shift": [c], "scale": [c]} of published latents z' = scale (z + shift).

    Here z' = (z - shift) / scale: the arrays -shift and 1 / scale.
    """
    full = lambda x: np.full(self.latent_channels, x, np.float32)
    return {"shift": full(-shift), "scale": full(1.0 / scale)}

  def _run(self, params, x, method):
    variables = base.network_variables(params)
    return KLVideoNetwork(self).apply(variables, x, method=method)


class KLVideoNetwork(nn.Module):
  """Clips [B, T, H, W, C] -> moments [B, t, h, w, 2 c] -> clips, for a KLVideo."""

  config: KLVideo

  def setup(self):
    c = self.config
    self.encoder, self.decoder = Encoder3D(c), Decoder3D(c)
    self.quant_conv = ReplicatePadConv3D(c, 2 * c.latent_channels, (1, 1, 1))
    inside = c.z_channels or c.latent_channels
    self.post_quant_conv = ReplicatePadConv3D(c, inside, (1, 1, 1))

  def __call__(self, video):
    mean, _ = jnp.split(self.encode(video), 2, axis=-1)
    return self.decode(mean)

  def encode(self, video):
    """Mean and logvar stacked, [B, t, h, w, 2 latent_channels] float32."""
    return self.quant_conv(self.encoder(video)).astype(jnp.float32)

  def decode(self, z):
    """The video [B, T, H, W, C] float32 of raw latents z [B, t, h, w, c]."""
    return self.decoder(self.post_quant_conv(z)).astype(jnp.float32)


class Encoder3D(nn.Module):
  """Clips [B, T, H, W, C] -> [B, t, h, w, 2 z_channels]."""

  config: KLVideo

  @nn.compact
  def __call__(self, x):
    c = self.config
    x = ReplicatePadConv3D(c, c.width, name="conv_first")(x)
    for i, stride in enumerate(c.levels):
      x = DownBlock3D(c, c.width * 2 ** (i + 1), stride, name=f"conv_blocks_{i}")(x)
    x = nn.silu(group_norm_over_clip(c, x, "final_block_0"))
    inside = c.z_channels or c.latent_channels
    return ReplicatePadConv3D(c, 2 * inside, name="final_block_2")(x)


class Decoder3D(nn.Module):
  """[B, t, h, w, z_channels] -> [B, T, H, W, pixel_channels]."""

  config: KLVideo

  @nn.compact
  def __call__(self, x):
    c = self.config
    # In time the first levels enlarge, as the last ones of the encoder do not.
    for i, stride in enumerate(c.levels):
      features = c.width * 2 ** (len(c.levels) - i)
      x = UpBlock3D(c, features, stride, name=f"conv_blocks_{i}")(x)
    return ReplicatePadConv3D(c, c.pixel_channels, name="conv_out")(x)


class _StridedModule(nn.Module):
  config: KLVideo
  features: int
  stride: tuple[int, int, int]


class DownBlock3D(_StridedModule):
  """A strided convolution to `features` channels and a residual block.

  [B, T, H, W, C] -> [B, T / stride[0], H / stride[1], W / stride[2], features].
  """

  @nn.compact
  def __call__(self, x):
    c = self.config
    x = ReplicatePadConv3D(c, self.features, (4, 4, 4), self.stride, name="down")(x)
    return ResidualBlock3D(c, name="res")(x)


class UpBlock3D(_StridedModule):
  """A transposed convolution to `features` channels, two residual blocks.

  [B, T, H, W, C] -> [B, T stride[0], H stride[1], W stride[2], features].
  """

  @nn.compact
  def __call__(self, x):
    c = self.config
    x = ReplicatePadConvTranspose3D(c, self.features, self.stride, name="up")(x)
    return ResidualBlock3D(c, name="res2")(ResidualBlock3D(c, name="res1")(x))


class ResidualBlock3D(nn.Module):
  """x + conv(silu(norm(conv(silu(norm(x)))))) on [B, T, H, W, C]."""

  config: KLVideo

  @nn.compact
  def __call__(self, x):
    h = nn.silu(group_norm_over_clip(self.config, x, "norm1"))
    h = ReplicatePadConv3D(self.config, x.shape[-1], name="conv1")(h)
    h = nn.silu(group_norm_over_clip(self.config, h, "norm2"))
    return x + ReplicatePadConv3D(self.config, x.shape[-1], name="conv2")(h)


class ReplicatePadConv3D(nn.Module):
  """A 3-D convolution, its edges repeated, to `features` channels; sizes / `stride`."""

  config: KLVideo
  features: int
  kernel: tuple[int, int, int] = (3, 3, 3)
  stride: tuple[int, int, int] = (1, 1, 1)

  @nn.compact
  def __call__(self, x):
    c = self.config
    stride = 1 if set(self.stride) == {1} else self.stride
    conv = convs.Conv(
      self.features, self.kernel, stride, ((0, 0),) * 3, **c.dtypes, name="conv"
    )
    return conv(replicate_pad(x, self.kernel, self.stride))


class ReplicatePadConvTranspose3D(_StridedModule):
  """A padded transposed convolution to `features` channels; sizes times `stride`."""

  @nn.compact
  def __call__(self, x):
    return ConvTranspose3D(self.config, self.features, self.stride, name="convt")(
      replicate_pad(x, (4, 4, 4), self.stride)
    )


class ConvTranspose3D(_StridedModule):
  """A transposed 4 x 4 x 4 convolution [B, T, H, W, C] to `features` channels.

  Not padded, and without its border: an axis of n becomes stride (n - 1) - 2.
  """

  @nn.compact
  def __call__(self, x):
    c, named = self.config, nn.with_logical_partitioning
    axes = (None, None, None, "conv_in", "conv_out")
    shape = (4, 4, 4, x.shape[-1], self.features)
    init, zeros = named(convs.fan_in_uniform, axes), nn.initializers.zeros
    kernel = self.param("kernel", init, shape, c.param_dtype)
    bias = self.param("bias", named(zeros, axes[-1:]), shape[-1:], c.param_dtype)
    x, kernel, bias = (jnp.asarray(a, c.dtype) for a in (x, kernel, bias))
    return convs.transposed_convolution(x, kernel, self.stride) + bias


def group_norm_over_clip(config, x, name):
  """Group norm of x [B, T, H, W, C], whose statistics are over time and space.

  Called inside a linen module, to which it adds the norm, with its learned scale and
  bias, as the child `name`. `config` is a KLVideo: groups and dtypes.
  """
  return temporal.group_norm(
    x, "clip", groups=config.groups, epsilon=1e-6, **config.dtypes, name=name
  )


def replicate_pad(x, kernel, stride):
  """x [B, T, H, W, C] with kernel - stride more in T, H and W: its edges, repeated.

  kernel and stride are of (time, height, width); of an odd number the larger half
  stands in front.
  """
  more = [k - s for k, s in zip(kernel, stride, strict=True)]
  widths = [(0, 0), *((n - n // 2, n // 2) for n in more), (0, 0)]
  return jnp.pad(x, widths, mode="edge") if any(more) else jnp.asarray(x)
