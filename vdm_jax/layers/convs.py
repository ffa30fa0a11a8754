"""A convolution over channels-last features, whose parameters carry logical names."""

import itertools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from vdm_jax.layers.cpu import blocking, kernel_gradient

# U(-1 / sqrt(fan_in), 1 / sqrt(fan_in)): what the published networks started from.
fan_in_uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class Conv(nn.Module):
  """Cross-correlation of [N, ..., C_in] with a kernel over the axes between.

  A kernel of one pixel is a matrix product; all others are XLA's convolution. On one
  CPU the gradient of a large one is ours, see kernel_gradient.py.

  Attributes:
    kernel: its size along each axis, (height, width) or (time, height, width).
    stride: along all axes, or one along each.
    padding: (before, after) zeros along each axis; by default what keeps the size at
      stride 1 for an odd kernel.
  """

  features: int
  kernel: tuple[int, ...] = (3, 3)
  stride: int | tuple[int, ...] = 1
  padding: tuple[tuple[int, int], ...] | None = None
  kernel_init: Any = fan_in_uniform
  bias_init: Any = nn.initializers.zeros
  dtype: Any = jnp.float32
  param_dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x):
    rank = len(self.kernel)
    if x.ndim != rank + 2:
      raise ValueError(
        f"A convolution with kernel={self.kernel} takes [N, {rank} axes, C]; "
        f"got shape {x.shape}."
      )
    named = nn.with_logical_partitioning
    weights = self.param(
      "kernel",
      named(self.kernel_init, (None,) * rank + ("conv_in", "conv_out")),
      (*self.kernel, x.shape[-1], self.features),
      self.param_dtype,
    )
    bias = self.param(
      "bias",
      named(self.bias_init, ("conv_out",)),
      (self.features,),
      self.param_dtype,
    )
    x, weights, bias = (jnp.asarray(a, self.dtype) for a in (x, weights, bias))
    padding = self.padding or tuple(((k - 1) // 2, k // 2) for k in self.kernel)
    return convolve(x, weights, self.stride, padding) + bias


def convolve(x, kernel, stride, padding):
  """[N, ..., C_in] by [..., C_in, C_out] -> [N, ..., C_out]."""
  spatial = kernel.shape[:-2]
  if stride == 1 and not any(map(any, padding)) and set(spatial) == {1}:
    return kernel_gradient.product(x, kernel.reshape(kernel.shape[-2:]))
  # On several CPUs frames may lie apart: whole neighbours would travel, not edges.
  if stride == 1 and blocking.enabled() and gathering_pays(x.shape[1:-1], spatial):
    return gathered(x, kernel, padding)
  over_time = len(spatial) == 3 and spatial[0] > 1 and max(spatial[1:]) > 1
  if over_time and blocking.on_cpu():
    return frame_by_frame(x, kernel, stride, padding)
  if stride == 1 and blocking.enabled() and kernel_gradient.pays(x, kernel):
    return kernel_gradient.convolve(tuple(map(tuple, padding)), x, kernel)
  axes = "DHW"[-len(spatial) :]
  return jax.lax.conv_general_dilated(
    x,
    kernel,
    window_strides=(stride,) * len(spatial) if isinstance(stride, int) else stride,
    padding=padding,
    dimension_numbers=(f"N{axes}C", f"{axes}IO", f"N{axes}C"),
  )


def frame_by_frame(x, kernel, stride, padding):
  """`convolve` of [N, T, H, W, C] as that of images, neighbours in time as channels.

  On one core XLA's convolution over three axes takes, forward and backward, 2.4 (2 x 8
  x 32 x 32 x 64, kernel 3 x 3 x 3) to 100 times as long, the most where it strides.
  """
  taps, (step, *within) = kernel.shape[0], np.broadcast_to(stride, 3).tolist()
  x = jnp.pad(x, ((0, 0), padding[0], (0, 0), (0, 0), (0, 0)))
  reach = (x.shape[1] - taps) // step * step + 1
  seen = jnp.concatenate([x[:, i : i + reach : step] for i in range(taps)], axis=-1)
  images = rearrange(seen, "n t h w c -> (n t) h w c")
  flat = rearrange(kernel, "t h w i o -> h w (t i) o")
  across = within[0] if within[0] == within[1] else tuple(within)
  out = convolve(images, flat, across, padding[1:])
  return rearrange(out, "(n t) h w c -> n t h w c", n=len(x))


def transposed_convolution(x, kernel, stride):
  """A transposed convolution without padding of its output, by smaller convolutions.

  With zeros inserted between the places of x, it is a convolution by the kernel turned
  round; each phase of a stride meets a part of the kernel only. [N, T, H, W, C_in] ->
  stride * (size - 1) + 2 - side along an axis of a kernel with that side.

  Args:
    kernel: [t, h, w, C_in, C_out], as PyTorch's ConvTranspose3d applies it; each side a
      multiple of its stride.
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


def gathering_pays(size, kernel):
  """Whether, on one CPU, `gathered` beats XLA's convolution of images of that size.

  Measured on one core, forward and backward: kernels (3, 1, 1) take from 0.3 (4 x 4
  pixels, 32 channels) to 0.95 (32 x 32, 320) of XLA's time, images of 2 x 2 pixels a
  tenth. With larger kernels on larger images the gathered input costs too much.
  """
  along_one_axis = sum(k > 1 for k in kernel) == 1 and len(kernel) > 2
  return along_one_axis or tuple(size[-2:]) == (2, 2)


def gathered(x, kernel, padding):
  """`convolve` with stride 1 as one product: the neighbours of a pixel side by side."""
  spatial = kernel.shape[:-2]
  x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
  size = [n - k + 1 for n, k in zip(x.shape[1:-1], spatial, strict=True)]
  places = itertools.product(*map(range, spatial))
  inside = lambda at: tuple(slice(i, i + n) for i, n in zip(at, size, strict=True))
  x = jnp.concatenate([x[(slice(None), *inside(at))] for at in places], axis=-1)
  return x @ kernel.reshape(-1, kernel.shape[-1])
