"""Convolutions that XLA computes slowly on a CPU, written as products of matrices.

What each gains: experiments/speed/README.md.
"""

import itertools

import jax.numpy as jnp
import numpy as np
from einops import rearrange

from vdm_jax.layers.cpu import blocking, kernel_gradient


def choose_convolution(x, kernel, stride):
  """The CPU's substitute for XLA's convolution of these arrays, or None if XLA is fast.

  A function (convolve, x, kernel, stride, padding) -> y, which may call `convolve` for
  a smaller convolution. x is [N, ..., C_in], the kernel [..., C_in, C_out].
  """
  spatial = kernel.shape[:-2]
  one_cpu = stride == 1 and blocking.on_one_cpu()
  # On several CPUs a gathered input moves whole neighbours between them, not edges.
  if one_cpu and im2col_beats_xla(x.shape[1:-1], spatial):
    return im2col
  over_time = len(spatial) == 3 and spatial[0] > 1 and max(spatial[1:]) > 1
  if over_time and blocking.on_cpu():
    return conv3d_as_conv2d
  if one_cpu and kernel_gradient.beats_xla(x, kernel):
    return kernel_gradient.convolution_with_fast_kernel_gradient
  return None


def im2col_beats_xla(input_size, kernel_size):
  """Whether, on one CPU, `im2col` is faster than XLA, for sizes without N and channels.

  It is for kernels along one axis of several, and for images of 2 x 2 pixels. With
  larger kernels on larger images the gathered input costs too much.
  """
  along_one_axis = sum(k > 1 for k in kernel_size) == 1 and len(kernel_size) > 2
  return along_one_axis or tuple(input_size[-2:]) == (2, 2)


def im2col(convolve, x, kernel, stride, padding):
  """Convolution of stride 1, [N, ..., C_out], as one matrix product.

  x is [N, ..., C_in], the kernel [..., C_in, C_out], `padding` a pair (before, after)
  for each axis; convolve and stride are not used.
  """
  del convolve, stride
  spatial = kernel.shape[:-2]
  x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
  size = [n - k + 1 for n, k in zip(x.shape[1:-1], spatial, strict=True)]
  places = itertools.product(*map(range, spatial))
  inside = lambda at: tuple(slice(i, i + n) for i, n in zip(at, size, strict=True))
  x = jnp.concatenate([x[(slice(None), *inside(at))] for at in places], axis=-1)
  return x @ kernel.reshape(-1, kernel.shape[-1])


def conv3d_as_conv2d(convolve, x, kernel, stride, padding):
  """3D convolution [N, T', H', W', C_out] as one of images, kernel frames as channels.

  x is [N, T, H, W, C_in], the kernel [t, h, w, C_in, C_out], `padding` a pair (before,
  after) for each axis; `convolve` is (x, kernel, stride, padding) -> y, for images.
  """
  taps, (step, *within) = kernel.shape[0], np.broadcast_to(stride, 3).tolist()
  x = jnp.pad(x, ((0, 0), padding[0], (0, 0), (0, 0), (0, 0)))
  reach = (x.shape[1] - taps) // step * step + 1
  stacked = jnp.concatenate([x[:, i : i + reach : step] for i in range(taps)], axis=-1)
  images = rearrange(stacked, "n t h w c -> (n t) h w c")
  flat = rearrange(kernel, "t h w i o -> h w (t i) o")
  across = within[0] if within[0] == within[1] else tuple(within)
  out = convolve(images, flat, across, padding[1:])
  return rearrange(out, "(n t) h w c -> n t h w c", n=len(x))
