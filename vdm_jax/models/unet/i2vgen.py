"""I2VGen-XL: a video U-Net that a picture is told to in three ways.

Its latents stand beside every frame, after a few convolutions and a look along time;
they are tokens too, and so is what an image encoder says of it, both behind the text's.
https://arxiv.org/abs/2311.04145; as in huggingface/diffusers (unet_i2vgen_xl.py).
"""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from vdm_jax.conditioning import Tokens
from vdm_jax.layers import embeddings, norms
from vdm_jax.layers.activations import gelu
from vdm_jax.layers.attention.frame_attention import SplitAttention
from vdm_jax.layers.convs import Conv
from vdm_jax.layers.linear import Linear
from vdm_jax.layers.module import Module
from vdm_jax.models.unet import unet3d

POOLED = 32  # the picture's latents, whatever their size, are made so large for tokens


class I2VGenXL(Module, unet3d.UNetModule):
  """[B, T, H, W, C] -> [B, T, H, W, out_channels]; its `config` is the U-Net's."""

  @nn.compact
  def __call__(self, x, t, cond, *, train=False):
    """The network's output F in float32.

    Args:
      x, t: as UNet3D's.
      cond: tokens["text"] [B, L, D]; tokens["image"] [B, 1, D], the picture's
        embedding; channels["image"] [B, T or 1, H, W, C], its latents, of which the
        original puts a ramp from 1 / (T - 1) to 1 in the place of later frames;
        vectors["fps"].
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
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    width = text.values.shape[-1]
    drawn = ContextEncoder(x.shape[-1], features=width, **dtypes, name="context")(
      latents[:, 0]
    )
    embedded = embeddings.TimeEmbedding(
      4 * self.config.channels[0],
      num_frequencies=0,
      features=x.shape[-1] * width,
      param_dtype=self.param_dtype,
      name="embedding",
    )(image.values[:, 0])
    seen = [drawn, rearrange(embedded, "b (n d) -> b n d", d=width)]
    # Of a picture that is not told, the mask speaks for all its tokens.
    told = [jnp.broadcast_to(image.mask[:, :1], tokens.shape[:2]) for tokens in seen]
    joined = Tokens(
      jnp.concatenate([text.values, *seen], axis=1),
      jnp.concatenate([text.mask, *told], axis=1),
    )
    beside = LatentProjector(x.shape[-1], **dtypes, name="beside")(latents)
    cond = cond.replace(tokens={"text": joined}, channels={"image": beside})
    return unet3d.UNet3D(**self.fields(), name="unet")(x, t, cond, train=train)


class _ConvModule(nn.Module):
  channels: int
  dtype: jnp.dtype = jnp.float32
  param_dtype: jnp.dtype = jnp.float32

  def dtypes(self):
    return dict(dtype=self.dtype, param_dtype=self.param_dtype)

  def conv(self, features, name, **rest):
    return Conv(features, **self.dtypes(), **rest, name=name)


class LatentProjector(_ConvModule):
  """Latents [B, T, H, W, C] -> [B, T, H, W, channels], every place over all frames."""

  @nn.compact
  def __call__(self, x):
    frames, rows, columns = x.shape[1:4]
    wide = 4 * self.channels
    x = rearrange(x, "b t h w c -> (b t) h w c")
    x = nn.silu(self.conv(wide, "conv1")(x))
    x = nn.silu(self.conv(wide, "conv2")(x))
    x = self.conv(self.channels, "conv3")(x)
    x = rearrange(x, "(b t) h w c -> (b h w) t c", t=frames)
    normed = norms.LayerNorm(1e-5, self.param_dtype, name="norm")(x)
    x += SplitAttention(2, self.channels, **self.dtypes(), name="attention")(normed)
    h = Linear(wide, (None, "mlp"), **self.dtypes(), name="mlp_in")(x)
    x += Linear(self.channels, ("mlp", None), **self.dtypes(), name="mlp_out")(gelu(h))
    return rearrange(x, "(b h w) t c -> b t h w c", h=rows, w=columns)


class ContextEncoder(_ConvModule):
  """Latents [B, H, W, C] -> tokens [B, 64, features], for any H and W."""

  features: int = 1024

  @nn.compact
  def __call__(self, x):
    x = nn.silu(self.conv(8 * self.channels, "conv1")(x))
    down, across = (
      adaptive_pooling(size, POOLED).astype(self.dtype) for size in x.shape[1:3]
    )
    x = jnp.einsum("ih,jw,bhwc->bijc", down, across, x)
    x = nn.silu(self.conv(16 * self.channels, "conv2", stride=2)(x))
    x = self.conv(self.features, "conv3", stride=2)(x)
    return rearrange(x, "b h w c -> b (h w) c")


def adaptive_pooling(size, count):
  """[count, size]: each of `count` places is the mean of those that it overlaps.

  Torch's adaptive average pooling, for fewer places and for more.
  """
  edges = np.arange(count + 1) * size
  start, end = edges[:-1] // count, -(-edges[1:] // count)
  place = np.arange(size)
  covers = (start[:, None] <= place) & (place < end[:, None])
  return (covers / covers.sum(axis=1, keepdims=True)).astype(np.float32)
