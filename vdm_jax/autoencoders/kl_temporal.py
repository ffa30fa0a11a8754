"""Stable Video Diffusion's autoencoder: frames encoded one by one, decoded together.

https://arxiv.org/abs/2311.15127; architecture and parameter names as in diffusers'
AutoencoderKLTemporalDecoder. The encoder is that of `kl_image.py`, so this decoder
decodes a KLImage's latents: without their flicker. It starts from a KLImage's decoder,
frame by frame (FROM_IMAGES), and is then trained on clips, as in
https://arxiv.org/abs/2304.08818.
"""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from vdm_jax.autoencoders import base, kl_image
from vdm_jax.layers import placement
from vdm_jax.layers.convs import Conv
from vdm_jax.layers.resnet import GroupNorm, Upsample
from vdm_jax.layers.temporal import SpatioTemporalResBlock, per_frame

# Logical axes of a video, see kl_image.py: split by clips, where these do not fill the
# mesh also by frames, and where these do not either, along height.
BY_CLIP_FRAME_HEIGHT = ("batch", ("batch", "frames"), "height", None, None)
MIN_SHARD = (1, 2, 4, 1, 1)

# For `rename` of training/inflate.py: the parameters of a KLImage as those of a
# KLTemporal. One whose layers along time are as they were initialised, and which has
# the KLImage's `patch` and `post_quant_conv`, decodes as it does.
FROM_IMAGES = ((r"(decoder/.*resnets_\d+)/", r"\1/spatial_res_block/"),)

# What the encoder needs of a KLTemporal's fields.
ENCODER_FIELDS = (
  "channels layers_per_block latent_channels pixel_channels groups patch "
  "post_quant_conv chunk force_upcast dtype param_dtype"
).split()


@dataclasses.dataclass(frozen=True, kw_only=True)
class KLTemporal:
  """Stable Video Diffusion's autoencoder: encodes frames, decodes clips.

  The defaults are the original's, 97.7 M parameters.

  Attributes:
    channels: of each level; each after the first halves height and width.
    layers_per_block: residual blocks of an encoder level; the decoder's have one more.
    latent_channels, pixel_channels: of the latents and of the video.
    output_channels: of the decoded video; None: pixel_channels.
    groups: of each group norm.
    mid_layers: blocks between latents and decoder. As in the original only the first
      two are used, with attention between them, but not if there is only one.
    patch: side of the squares of pixels that become channels before the first layer.
    post_quant_conv: whether a 1 x 1 convolution precedes the decoder.
    chunk: frames that are encoded at a time, to save memory; None: all.
    decode_chunk: frames that are decoded together, without the others; None: all.
    sample_size: side in pixels of the training data, for diffusers' config.json.
    force_upcast: a `dtype` of float16, too narrow for the weights, becomes float32.
  """

  channels: tuple[int, ...] = (128, 256, 512, 512)
  layers_per_block: int = 2
  latent_channels: int = 4
  pixel_channels: int = 3
  output_channels: int | None = None
  groups: int = 32
  mid_layers: int = 2
  patch: int = 1
  post_quant_conv: bool = False
  chunk: int | None = None
  decode_chunk: int | None = None
  sample_size: int = 768
  force_upcast: bool = True
  dtype: Any = jnp.float32
  param_dtype: Any = jnp.float32

  dtypes = base.dtypes
  latents = base.normalized_latents
  with_latent_statistics = base.with_latent_statistics

  def __post_init__(self):
    object.__setattr__(self, "channels", tuple(self.channels))
    # Building the image autoencoder checks the fields, too.
    object.__setattr__(self, "dtype", self.image_autoencoder.dtype)
    for name in ("mid_layers", "decode_chunk"):
      value = getattr(self, name)
      if value is not None and value < 1:
        raise ValueError(f"{name}={value} must be at least 1.")

  @property
  def image_autoencoder(self):
    """The KLImage with the same encoder."""
    return kl_image.KLImage(**{name: getattr(self, name) for name in ENCODER_FIELDS})

  @property
  def stride(self):
    """Pixels per latent in (time, height, width)."""
    return self.image_autoencoder.stride

  def init(self, key, video):
    """New parameters, a nested dict; `video` [B, T, H, W, C] is checked only."""
    base.check_video(video, self.pixel_channels, self.stride)
    k_encoder, k_decoder = jax.random.split(key)
    network = kl_image.KLImageNetwork(self.image_autoencoder)
    frame = jnp.zeros((1, *self.stride[1:], self.pixel_channels))
    encoder = network.init(k_encoder, frame, method=kl_image.KLImageNetwork.encode)[
      "params"
    ]
    latents = jnp.zeros((1, 1, 1, 1, self.latent_channels))
    decoder = TemporalDecoderNetwork(self).init(k_decoder, latents)["params"]
    statistics = base.identity_statistics(self.latent_channels)
    return {**encoder, **decoder, "latents": statistics}

  def encode(self, params, video):
    """Moments of raw latents [B, t, h, w, c] of a video [B, T, H, W, C] in [-1, 1]."""
    return self.image_autoencoder.encode(params, video)

  def decode(self, params, latents):
    """The video [B, T, H, W, C], float32, unclipped, of latents of unit variance."""
    z = base.denormalize_latents(self, params, latents)
    run = lambda z: TemporalDecoderNetwork(self).apply({"params": params}, z)
    size, frames = self.decode_chunk or z.shape[1], z.shape[1]
    if size >= frames:
      return run(z)
    whole = frames - frames % size
    chunks = rearrange(z[:, :whole], "b (n t) h w c -> n b t h w c", t=size)
    video = rearrange(jax.lax.map(run, chunks), "n b t h w c -> b (n t) h w c")
    rest = [run(z[:, whole:])] if whole < frames else []
    return jnp.concatenate([video, *rest], axis=1)


class TemporalDecoderNetwork(nn.Module):
  """Raw latents [B, T, h, w, latent_channels] -> video [B, T, H, W, C] float32."""

  config: KLTemporal

  @nn.compact
  def __call__(self, z):
    c = self.config
    if c.post_quant_conv:
      conv = Conv(c.latent_channels, (1, 1), **c.dtypes, name="post_quant_conv")
      z = per_frame(conv, z)
    x = TemporalDecoder(c, name="decoder")(z)
    p = c.patch
    return rearrange(x, "b t h w (p q c) -> b t (h p) (w q) c", p=p, q=p)


class TemporalDecoder(nn.Module):
  """Decodes latents of clips, frames mixed along time, to pixels in patches, float32.

  [B, T, h, w, latent_channels] -> [B, T, h f, w f, output_channels patch^2] with
  f = 2^(levels - 1).
  """

  config: KLTemporal

  @nn.compact
  def __call__(self, z):
    c = self.config
    z = placement.constrain(z, BY_CLIP_FRAME_HEIGHT, MIN_SHARD)
    x = per_frame(Conv(c.channels[-1], **c.dtypes, name="conv_in"), z)
    x = TemporalMidBlock(c, name="mid_block")(x)
    for i, features in enumerate(reversed(c.channels)):
      last = i == len(c.channels) - 1
      x = TemporalLevel(c, features, not last, name=f"up_blocks_{i}")(x)
    x = nn.silu(per_frame(GroupNorm(c.groups, **c.dtypes, name="conv_norm_out"), x))
    features = (c.output_channels or c.pixel_channels) * c.patch**2
    x = per_frame(Conv(features, **c.dtypes, name="conv_out"), x)
    along = dict(kernel_init=temporal_identity_init, **c.dtypes, name="time_conv_out")
    return Conv(features, (3, 1, 1), **along)(x).astype(jnp.float32)


def temporal_identity_init(key, shape, dtype):
  """Initializer of a kernel [T, 1, 1, C, C]: the identity in the middle, else 0."""
  del key
  time, *_, inputs, outputs = shape
  return jnp.zeros(shape, dtype).at[time // 2, 0, 0].set(jnp.eye(inputs, outputs))


class TemporalMidBlock(nn.Module):
  """Residual block, attention within each frame, residual block, on [B, T, h, w, C].

  With config.mid_layers = 1 the first block is all that counts, as in the original.
  """

  config: KLTemporal

  @nn.compact
  def __call__(self, x):
    c = self.config
    x = placement.constrain(x, BY_CLIP_FRAME_HEIGHT, MIN_SHARD)
    block = functools.partial(_block, c, x.shape[-1])
    x = block(0)(x)
    attended = per_frame(kl_image.PixelAttention(c, name="attentions_0"), x)
    if c.mid_layers > 1:
      x = block(1)(attended)
    for i in range(2, c.mid_layers):
      block(i)(x)  # makes its weights; the output is not used
    return x


def _block(c, features, i):
  return SpatioTemporalResBlock(features, c.groups, **c.dtypes, name=f"resnets_{i}")


class TemporalLevel(nn.Module):
  """Residual blocks on [B, T, h, w, C], then, if `upsample`, upsampling by 2.

  The output has `features` channels.
  """

  config: KLTemporal
  features: int
  upsample: bool

  @nn.compact
  def __call__(self, x):
    c = self.config
    x = placement.constrain(x, BY_CLIP_FRAME_HEIGHT, MIN_SHARD)
    for i in range(c.layers_per_block + 1):
      x = _block(c, self.features, i)(x)
    if not self.upsample:
      return x
    return per_frame(Upsample(**c.dtypes, name="upsamplers_0"), x)
