"""I2VGen-XL: a video U-Net conditioned on an image in three ways.

The image's latents, projected, are channels of every frame; they are also encoded into
tokens, and so is its image embedding; both sets of tokens are appended to the text's.
https://arxiv.org/abs/2311.04145; as in huggingface/diffusers (unet_i2vgen_xl.py).
"""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from vdm_jax.conditioning import Tokens
from vdm_jax.layers import embeddings, norms
from vdm_jax.layers.activations import gelu
from vdm_jax.layers.attention.frame_attention import UNetAttention
from vdm_jax.layers.convs import Conv
from vdm_jax.layers.linear import Linear
from vdm_jax.layers.module import Module, TypedModule
from vdm_jax.models.unet import unet3d

POOLED = 32  # height and width to which the image's latents are pooled for tokens


class I2VGenXL(Module, unet3d.UNetModule):
  """I2VGen-XL: (x [B, T, H, W, C], t, cond) -> F [B, T, H, W, out_channels].

  `config` is the Architecture of its U-Net.
  """

  @nn.compact
  def __call__(self, x, t, cond, *, train=False):
    """The network's output F [B, T, H, W, out_channels] in float32.

    Args:
      x: noisy video [B, T, H, W, C].
      t: diffusion time in the network's units, [B], [B, 1] or [B, T].
      cond: tokens["text"] [B, L, D]; tokens["image"] [B, 1, D], the image's embedding;
        channels["image"] [B, T or 1, H, W, C], its latents, of which the original
        puts a ramp from 1 / (T - 1) to 1 in the place of later frames; vectors["fps"].
    """
    for group, names in (("tokens", ("image", "text")), ("channels", ("image",))):
      if tuple(sorted(getattr(cond, group))) != names:
        raise KeyError(
          f"I2VGenXL reads {group} named {names}; the condition has "
          f"{sorted(getattr(cond, group))}."
        )
    latents = cond.channels["image"].astype(self.dtype)
    latents = jnp.broadcast_to(latents, x.shape[:-1] + latents.shape[-1:])
    text, image = cond.tokens["text"], cond.tokens["image"]
    width = text.values.shape[-1]
    encoded = ContextEncoder(
      x.shape[-1], features=width, **self.dtypes, name="context"
    )(latents[:, 0])
    embedded = embeddings.TimeEmbedding(
      4 * self.config.channels[0],
      num_frequencies=0,
      features=x.shape[-1] * width,
      param_dtype=self.param_dtype,
      name="embedding",
    )(image.values[:, 0])
    added = [encoded, rearrange(embedded, "b (n d) -> b n d", d=width)]
    # The mask of the image's embedding is that of all its tokens.
    masks = [jnp.broadcast_to(image.mask[:, :1], tokens.shape[:2]) for tokens in added]
    joined = Tokens(
      jnp.concatenate([text.values, *added], axis=1),
      jnp.concatenate([text.mask, *masks], axis=1),
    )
    projected = LatentProjector(x.shape[-1], **self.dtypes, name="beside")(latents)
    cond = cond.replace(tokens={"text": joined}, channels={"image": projected})
    return unet3d.UNet3D(**self.fields(), name="unet")(x, t, cond, train=train)


class _ConvModule(TypedModule):
  channels: int

  def conv(self, features, name, **rest):
    return Conv(features, **self.dtypes, **rest, name=name)


class LatentProjector(_ConvModule):
  """Projects latents of images, [B, T, H, W, C] -> [B, T, H, W, channels].

  By convolutions in each frame, then attention and a perceptron along time.
  """

  @nn.compact
  def __call__(self, x):
    """[B, T, H, W, channels] of latents [B, T, H, W, C]."""
    frames, rows, columns = x.shape[1:4]
    wide = 4 * self.channels
    x = rearrange(x, "b t h w c -> (b t) h w c")
    x = nn.silu(self.conv(wide, "conv1")(x))
    x = nn.silu(self.conv(wide, "conv2")(x))
    x = self.conv(self.channels, "conv3")(x)
    x = rearrange(x, "(b t) h w c -> (b h w) t c", t=frames)
    normed = norms.LayerNorm(1e-5, self.param_dtype, name="norm")(x)
    x += UNetAttention(2, self.channels, **self.dtypes, name="attention")(normed)
    h = Linear(wide, (None, "mlp"), **self.dtypes, name="mlp_in")(x)
    x += Linear(self.channels, ("mlp", None), **self.dtypes, name="mlp_out")(gelu(h))
    return rearrange(x, "(b h w) t c -> b t h w c", h=rows, w=columns)


class ContextEncoder(_ConvModule):
  """Encodes an image's latents [B, H, W, C] as 64 tokens, [B, 64, features].

  `channels` is the unit of the widths of its convolutions.
  """

  features: int = 1024

  @nn.compact
  def __call__(self, x):
    """Tokens [B, 64, features] of latents [B, H, W, C], for any H and W."""
    x = nn.silu(self.conv(8 * self.channels, "conv1")(x))
    down, across = (
      adaptive_pooling_matrix(size, POOLED).astype(self.dtype) for size in x.shape[1:3]
    )
    x = jnp.einsum("ih,jw,bhwc->bijc", down, across, x)
    x = nn.silu(self.conv(16 * self.channels, "conv2", stride=2)(x))
    x = self.conv(self.features, "conv3", stride=2)(x)
    return rearrange(x, "b h w c -> b (h w) c")


def adaptive_pooling_matrix(size, count):
  """Matrix [count, size] of torch's adaptive average pooling of an axis; numpy float32.

  Each of `count` outputs is the mean of those of `size` inputs that it overlaps; count
  may exceed size.
  """
  edges = np.arange(count + 1) * size
  start, end = edges[:-1] // count, -(-edges[1:] // count)
  place = np.arange(size)
  covers = (start[:, None] <= place) & (place < end[:, None])
  return (covers / covers.sum(axis=1, keepdims=True)).astype(np.float32)
