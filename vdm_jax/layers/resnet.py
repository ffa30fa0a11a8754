"""The residual block of Stable Diffusion's networks, and its changes of resolution.

All work on images [N, H, W, C]. Names of parameters are diffusers', with "_" for ".".
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange, repeat

from vdm_jax.layers import norms
from vdm_jax.layers.activations import ACTIVATIONS
from vdm_jax.layers.convs import Conv
from vdm_jax.layers.module import TypedModule


class GroupNorm(TypedModule):
  """Group norm of [N, H, W, C]: over pixels and a group's channels; a scale and a bias.

  In float32, the variance from centred values. Sums over pixels come before sums over
  channels: on CPU three times faster than a reduction over both.
  """

  groups: int = 32
  epsilon: float = 1e-6

  @nn.compact
  def __call__(self, x):
    """[N, H, W, C] in `dtype` of x of that shape."""
    channels = x.shape[-1]
    if channels % self.groups:
      raise ValueError(
        f"{channels} channels cannot be cut into groups={self.groups}; the number of "
        "groups must be a divisor of the channels."
      )
    scale, bias = norms.affine_parameters(self, channels)
    x = x.astype(jnp.float32)
    x = x - self._mean(x)
    gain = jax.lax.rsqrt(self._mean(jnp.square(x)) + self.epsilon) * scale
    return (x * gain + bias).astype(self.dtype)

  def _mean(self, x):
    """[N, H, W, C] -> [N, 1, 1, C], equal within a group."""
    mean = rearrange(x.mean(axis=(1, 2)), "n (g c) -> n g c", g=self.groups).mean(-1)
    return repeat(mean, "n g -> n 1 1 (g c)", c=x.shape[-1] // self.groups)


class ResnetBlock(TypedModule):
  """Residual block x + conv(silu(norm(conv(silu(norm(x)))))), -> [N, H, W, features].

  x [N, H, W, C] first passes a 1 x 1 convolution where the number of channels changes.
  The second convolution starts at zero, so that a deep network starts as a shallow one.
  `activation` takes the place of "silu": "gelu", "relu", "mish" ...
  """

  features: int
  groups: int = 32
  epsilon: float = 1e-6
  activation: str = "silu"

  @nn.compact
  def __call__(self, x):
    norm = lambda name: GroupNorm(self.groups, self.epsilon, **self.dtypes, name=name)
    activate = ACTIVATIONS[self.activation]
    h = Conv(self.features, **self.dtypes, name="conv1")(activate(norm("norm1")(x)))
    zeros = nn.initializers.zeros
    second = Conv(self.features, kernel_init=zeros, **self.dtypes, name="conv2")
    h = second(activate(norm("norm2")(h)))
    if x.shape[-1] != self.features:
      x = Conv(self.features, (1, 1), **self.dtypes, name="conv_shortcut")(x)
    return x + h


class Downsample(TypedModule):
  """Convolution of stride 2, [N, H, W, C] -> [N, H/2, W/2, C]; pads below and right."""

  @nn.compact
  def __call__(self, x):
    half = dict(stride=2, padding=((0, 1), (0, 1)))
    return Conv(x.shape[-1], **half, **self.dtypes, name="conv")(x)


class Upsample(TypedModule):
  """Upsampling, [N, H, W, C] -> [N, 2H, 2W, C]: nearest neighbour, then a 3 x 3 conv.

  https://distill.pub/2016/deconv-checkerboard
  """

  @nn.compact
  def __call__(self, x):
    x = repeat(x, "n h w c -> n (h p) (w q) c", p=2, q=2)
    return Conv(x.shape[-1], **self.dtypes, name="conv")(x)
