"""Residual blocks of videos: within frames, along time, and a learned mixture of both.

All work on videos [B, T, H, W, C]. Names of parameters are diffusers', as in resnet.py.
https://arxiv.org/abs/2311.15127.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from vdm_jax.layers.convs import Conv
from vdm_jax.layers.linear import Linear
from vdm_jax.layers.module import TypedModule, named_param
from vdm_jax.layers.resnet import GroupNorm, ResnetBlock

# Over what a group norm takes its statistics: the layout [n, h, w, c] for GroupNorm.
# Each n has its own statistics.
STATISTICS = {
  "frame": "(b t) h w c",
  "clip": "b t (h w) c",
  "pixel": "(b h w) t 1 c",
}


def per_frame(layer, x):
  """layer(x) of each frame of x [B, T, H, W, C]; `layer` takes images [N, H, W, C]."""
  y = layer(rearrange(x, "b t h w c -> (b t) h w c"))
  return rearrange(y, "(b t) h w c -> b t h w c", t=x.shape[1])


def group_norm(x, norm_over, **fields):
  """Group norm of a video x [B, T, H, W, C], of the same shape.

  Statistics are over each "frame", "clip", or "pixel" along time (`norm_over`): the
  same weights are then other networks. `fields` are GroupNorm's: groups, epsilon ...
  """
  b, t, h, w, _ = x.shape
  flat = rearrange(x, f"b t h w c -> {STATISTICS[norm_over]}")
  flat = GroupNorm(**fields)(flat)
  return rearrange(flat, f"{STATISTICS[norm_over]} -> b t h w c", b=b, t=t, h=h, w=w)


def convolution(x, features, kernel, **fields):
  """Convolution of a video x [B, T, H, W, C] -> [B, T, H, W, features].

  A kernel (h, w) convolves each frame, (t, h, w) the clip; `fields` are those of Conv:
  stride, padding, kernel_init ...
  """
  conv = Conv(features, kernel, **fields)
  return per_frame(conv, x) if len(kernel) == 2 else conv(x)


class VideoResnetBlock(TypedModule):
  """Residual block of videos, x + conv(silu(norm(conv(silu(norm(x))) + emb))).

  `emb` passes silu and a linear layer before it is added. x first passes a convolution
  of one pixel where the number of channels changes. The second convolution starts at 0.

  Attributes:
    features: output channels; None: those of x.
    kernel: (3, 3) within the frames, (3, 1, 1) along time, (3, 3, 3) both.
    norm_over: statistics of a norm: over each "frame", "clip", or "pixel" along time.
    scale_shift: the embedding scales and shifts the second norm, and is not added
      before it (FiLM).
  """

  features: int | None = None
  kernel: tuple[int, ...] = (3, 3)
  norm_over: str = "frame"
  groups: int = 32
  epsilon: float = 1e-5
  scale_shift: bool = False

  @nn.compact
  def __call__(self, x, emb=None):
    """[B, T, H, W, features] of x [B, T, H, W, C]; emb [B, T or 1, E], or None."""
    rest = dict(groups=self.groups, epsilon=self.epsilon, **self.dtypes)
    norm = lambda name, x: group_norm(x, self.norm_over, **rest, name=name)
    features, zeros = self.features or x.shape[-1], nn.initializers.zeros

    h = nn.silu(norm("norm1", x))
    h = convolution(h, features, self.kernel, **self.dtypes, name="conv1")
    shift, scale = None, None
    if emb is not None:
      width = features * (2 if self.scale_shift else 1)
      linear = Linear(width, ("embed", None), **self.dtypes, name="time_emb_proj")
      mod = rearrange(linear(nn.silu(emb)), "b t c -> b t 1 1 c")
      if self.scale_shift:
        scale, shift = jnp.split(mod, 2, axis=-1)
      else:
        h = h + mod
    h = norm("norm2", h)
    h = h if scale is None else h * (1 + scale) + shift
    h = convolution(
      nn.silu(h), features, self.kernel, kernel_init=zeros, **self.dtypes, name="conv2"
    )
    if x.shape[-1] != features:
      x = convolution(x, features, (1, 1), **self.dtypes, name="conv_shortcut")
    return x + h


class TemporalConvolutions(TypedModule):
  """x + h, where h is x after `count` times convolution(silu(norm(h))) along time.

  The norms take their statistics over the clip; the last convolution starts at zero.
  Of ModelScope's text-to-video and of VideoCrafter, https://arxiv.org/abs/2308.06571.
  """

  kernel: tuple[int, ...] = (3, 1, 1)
  count: int = 4
  groups: int = 32
  epsilon: float = 1e-5

  @nn.compact
  def __call__(self, x):
    """[B, T, H, W, C] of x of that shape."""
    rest = dict(groups=self.groups, epsilon=self.epsilon, **self.dtypes)
    h = x
    for i in range(1, self.count + 1):
      init = {"kernel_init": nn.initializers.zeros} if i == self.count else {}
      h = nn.silu(group_norm(h, "clip", **rest, name=f"norm{i}"))
      h = Conv(x.shape[-1], self.kernel, **init, **self.dtypes, name=f"conv{i}")(h)
    return x + h


class SpatioTemporalResBlock(TypedModule):
  """(1 - a) s + a t: s = residual block of each frame, t = residual block in time of s.

  a = sigmoid(mix_factor) is learned, one number, 1/2 at first. `epsilons` are of the
  norms in s and in t.
  """

  features: int
  groups: int = 32
  epsilons: tuple[float, float] = (1e-6, 1e-5)

  @nn.compact
  def __call__(self, x):
    """[B, T, H, W, features] of x [B, T, H, W, C]."""
    within, along = self.epsilons
    frames = ResnetBlock(
      self.features, self.groups, within, **self.dtypes, name="spatial_res_block"
    )
    spatial = per_frame(frames, x)
    temporal = VideoResnetBlock(
      kernel=(3, 1, 1),
      norm_over="clip",
      groups=self.groups,
      epsilon=along,
      **self.dtypes,
      name="temporal_res_block",
    )(spatial)
    return AlphaBlender(self.param_dtype, name="time_mixer")(spatial, temporal)


class AlphaBlender(nn.Module):
  """A mixture of two arrays, (1 - a) first + a second, with a learned number a."""

  param_dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, first, second, second_only=None):
    """(1 - a) first + a second, or second where the boolean second_only is True."""
    factor = named_param(self, "mix_factor", nn.initializers.zeros, (None,), (1,))
    share = jax.nn.sigmoid(factor.astype(jnp.float32)).astype(first.dtype)
    share = share if second_only is None else jnp.where(second_only, 1, share)
    return (1 - share) * first + share * second
