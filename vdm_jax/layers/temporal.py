"""Residual blocks of a video: one within the frames, one along time, and their mixture.

All work on videos [B, T, H, W, C]. Names of parameters are diffusers', as in resnet.py.
https://arxiv.org/abs/2311.15127.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from vdm_jax.layers.convs import Conv
from vdm_jax.layers.resnet import GroupNorm, ResnetBlock


def per_frame(layer, x):
  """layer(x) for a layer of images [N, H, W, C]; every frame is one."""
  y = layer(rearrange(x, "b t h w c -> (b t) h w c"))
  return rearrange(y, "(b t) h w c -> b t h w c", t=x.shape[1])


class TemporalResnetBlock(nn.Module):
  """x + conv(silu(norm(conv(silu(norm(x)))))), convolutions of 3 frames by one pixel.

  The norms take their statistics over all frames. The second convolution starts at
  zero.
  """

  groups: int = 32
  epsilon: float = 1e-5
  dtype: Any = jnp.float32
  param_dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x):
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)

    def norm(name, x):
      flat = rearrange(x, "b t h w c -> b t (h w) c")
      flat = GroupNorm(self.groups, self.epsilon, **dtypes, name=name)(flat)
      return rearrange(flat, "b t (h w) c -> b t h w c", h=x.shape[2])

    features, kernel, zeros = x.shape[-1], (3, 1, 1), nn.initializers.zeros
    second = Conv(features, kernel, kernel_init=zeros, **dtypes, name="conv2")
    h = Conv(features, kernel, **dtypes, name="conv1")(nn.silu(norm("norm1", x)))
    return x + second(nn.silu(norm("norm2", h)))


class SpatialTemporalBlock(nn.Module):
  """(1 - a) s + a t: s of a ResnetBlock on each frame, t of a temporal one on s.

  a = sigmoid(mix_factor) is learnt, one number, 1/2 at first.
  """

  features: int
  groups: int = 32
  epsilons: tuple[float, float] = (1e-6, 1e-5)  # of the block of frames, of time
  dtype: Any = jnp.float32
  param_dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x):
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    within, along = self.epsilons
    frames = ResnetBlock(
      self.features, self.groups, within, **dtypes, name="spatial_res_block"
    )
    spatial = per_frame(frames, x)
    temporal = TemporalResnetBlock(
      self.groups, along, **dtypes, name="temporal_res_block"
    )(spatial)
    return Mixer(self.param_dtype, name="time_mixer")(spatial, temporal)


class Mixer(nn.Module):
  """A mixture of two features with a learnt share of the second."""

  param_dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, first, second):
    init = nn.with_logical_partitioning(nn.initializers.zeros, (None,))
    factor = self.param("mix_factor", init, (1,), self.param_dtype)
    share = jax.nn.sigmoid(factor.astype(jnp.float32)).astype(first.dtype)
    return (1 - share) * first + share * second
