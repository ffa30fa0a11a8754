"""A convolution over channels-last features, whose parameters carry logical names."""

import itertools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from vdm_jax.layers import cpu
from vdm_jax.layers.module import TypedModule, named_param

# U(-1 / sqrt(fan_in), 1 / sqrt(fan_in)): what the published networks started from.
fan_in_uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class Conv(TypedModule):
  """Convolution [N, ..., C_in] -> [N, ..., features] (cross-correlation and a bias).

  It goes over the axes between the first and the last. A kernel of one pixel is a
  matrix product; others are XLA's convolution, or on a CPU an equal and faster one.

  Attributes:
    features: output channels.
    kernel: size along each axis, (height, width) or (time, height, width).
    stride: along all axes, or one along each.
    padding: (before, after) zeros along each axis; by default what keeps the size at
      stride 1 for an odd kernel.
    kernel_init, bias_init: initializers of [*kernel, C_in, features] and [features].
  """

  features: int
  kernel: tuple[int, ...] = (3, 3)
  stride: int | tuple[int, ...] = 1
  padding: tuple[tuple[int, int], ...] | None = None
  kernel_init: Any = fan_in_uniform
  bias_init: Any = nn.initializers.zeros

  @nn.compact
  def __call__(self, x):
    """[N, ..., features] in `dtype` of x [N, ..., C_in]."""
    rank = len(self.kernel)
    if x.ndim != rank + 2:
      raise ValueError(
        f"A convolution with kernel={self.kernel} takes [N, {rank} axes, C]; "
        f"got shape {x.shape}."
      )
    shape = (*self.kernel, x.shape[-1], self.features)
    axes = (None,) * rank + ("conv_in", "conv_out")
    weights = named_param(self, "kernel", self.kernel_init, axes, shape)
    bias = named_param(self, "bias", self.bias_init, axes[-1:], shape[-1:])
    x, weights, bias = (jnp.asarray(a, self.dtype) for a in (x, weights, bias))
    padding = self.padding or tuple(((k - 1) // 2, k // 2) for k in self.kernel)
    return convolve(x, weights, self.stride, padding) + bias


def convolve(x, kernel, stride, padding):
  """Cross-correlation of x [N, ..., C_in] with a kernel -> [N, ..., C_out], no bias.

  Args:
    kernel: [..., C_in, C_out], with a size for each axis of x between N and C_in.
    stride: along all axes, or one along each.
    padding: (before, after) zeros along each axis.
  """
  spatial = kernel.shape[:-2]
  if stride == 1 and not any(map(any, padding)) and set(spatial) == {1}:
    return cpu.matmul_with_fast_gradient(x, kernel.reshape(kernel.shape[-2:]))
  on_cpu = cpu.choose_convolution(x, kernel, stride)
  if on_cpu is not None:
    return on_cpu(convolve, x, kernel, stride, padding)
  axes = "DHW"[-len(spatial) :]
  return jax.lax.conv_general_dilated(
    x,
    kernel,
    window_strides=(stride,) * len(spatial) if isinstance(stride, int) else stride,
    padding=padding,
    dimension_numbers=(f"N{axes}C", f"{axes}IO", f"N{axes}C"),
  )


def transposed_convolution(x, kernel, stride):
  """Transposed 3D convolution of x [N, T, H, W, C_in] -> [N, T', H', W', C_out].

  An axis of n places becomes stride * (n - 1) + 2 - k long for a kernel of k: outputs
  that would need padding are left out. With zeros inserted between the places of x it
  is a convolution by the flipped kernel, of which each phase of a stride meets a part.

  Args:
    kernel: [t, h, w, C_in, C_out], as PyTorch's ConvTranspose3d applies it; each side a
      multiple of its stride.
    stride: three, along T, H and W.
  """
  kernel = kernel[::-1, ::-1, ::-1]
  axes = range(1, 4)
  taps = [kernel.shape[i - 1] // stride[i - 1] for i in axes]
  sizes = [x.shape[i] - taps[i - 1] for i in axes]  # less one where it is enlarged
  parts = []
  for phase in itertools.product(*(range(s) for s in stride)):
    own = kernel[tuple(slice(r, None, s) for r, s in zip(phase, stride, strict=True))]
    cut = [
      slice(r, r + n + t - 1) if s > 1 else slice(None)
      for r, n, t, s in zip(phase, sizes, taps, stride, strict=True)
    ]
    part = x[(slice(None), *cut)]
    parts.append(convolve(part, own, 1, ((0, 0),) * 3))
  a, b, c = stride
  pattern = "(a b c) n t h w d -> n (t a) (h b) (w c) d"
  return rearrange(jnp.stack(parts), pattern, a=a, b=b, c=c)
