"""Products and convolutions whose kernel's gradient is fast on a CPU.

y = x K is linear in K. XLA multiplies matrices at full speed when the summed axis is
contiguous; in the gradient of K, x' dy, it is not. With x transposed first, it is.

  y[h, w] = sum over i, j of x[h + i, w + j] K[i, j]

is linear in K. `convolve_in_bands` computes it in bands of rows, one product for
each place of the kernel; its transpose, which is what a backward pass runs, finds a
band of x and of dy in the cache for all of them. What both gain:
experiments/speed/README.md.
"""

import functools

import jax
import jax.numpy as jnp
from einops import rearrange

from vdm_jax.layers.cpu import blocking

BAND = 2**20  # bytes of x in a band of rows
CHANNELS = 64  # with fewer the products are too small: XLA's gradient is as fast


def beats_xla(x, kernel):
  """Whether `convolve_in_bands` has a faster kernel gradient than XLA, a bool.

  For x [N, H, W, C] and a kernel [h, w, C, O].
  """
  if x.ndim != 4 or min(kernel.shape[-2:]) < CHANNELS:
    return False
  return kernel.shape[0] <= _band(x) < x.shape[1]


def matmul_with_fast_gradient(x, kernel):
  """x @ kernel [..., O] of x [..., I], kernel [I, O], with a fast gradient on a CPU.

  With more inputs than outputs the transpose costs what it saves.
  """
  fast = blocking.on_one_cpu() and x.shape[-1] <= kernel.shape[-1]
  return _matmul(x, kernel) if fast else x @ kernel


@jax.custom_jvp
def _matmul(x, kernel):
  return x @ kernel


def _across(x, kernel):
  """x @ kernel, in the form whose transpose in the kernel is fast."""
  across = jax.lax.optimization_barrier(rearrange(x, "... i -> i (...)"))
  return jnp.einsum("ip,io->po", across, kernel).reshape(*x.shape[:-1], -1)


_matmul.defjvp(lambda *args: _tangent(jnp.matmul, _across, *args), symbolic_zeros=True)


def convolution_with_fast_kernel_gradient(convolve_xla, x, kernel, stride, padding):
  """Convolution [N, H', W', C_out] of stride 1, whose kernel gradient is fast on a CPU.

  x is [N, H, W, C_in], the kernel [h, w, C_in, C_out], `padding` a pair (before, after)
  for each axis; convolve_xla and stride are not used.
  """
  del convolve_xla, stride
  return convolve_with_fast_gradient(tuple(map(tuple, padding)), x, kernel)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def convolve_with_fast_gradient(padding, x, kernel):
  """Convolution of stride 1, [N, H', W', C_out], whose gradient is fast on a CPU.

  x is [N, H, W, C_in], the kernel [h, w, C_in, C_out], `padding` a pair (before, after)
  for each axis, smaller than the kernel.
  """
  return jax.lax.conv_general_dilated(
    x, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
  )


def _tangent(apply, by_kernel, primals, tangents):
  """apply(x, kernel) and its tangent, that of the kernel by `by_kernel`.

  `apply` is the plain operation, so that a policy of remat sees what it is.
  """
  (x, kernel), (dx, dk) = primals, tangents
  y = apply(x, kernel)
  zero = lambda d: isinstance(d, jax.custom_derivatives.SymbolicZero)
  dy = [] if zero(dx) else [apply(dx, kernel)]
  dy += [] if zero(dk) else [by_kernel(x, dk)]
  return y, sum(dy[1:], dy[0]) if dy else jnp.zeros_like(y)


def _jvp(padding, *args):
  across = functools.partial(convolve_in_bands, padding)
  return _tangent(
    functools.partial(convolve_with_fast_gradient, padding), across, *args
  )


convolve_with_fast_gradient.defjvp(_jvp, symbolic_zeros=True)


def convolve_in_bands(padding, x, kernel):
  """Convolution of stride 1, [N, H', W', C_out], as a sum over bands of rows.

  Its transpose in the kernel is fast. x is [N, H, W, C_in], the kernel
  [h, w, C_in, C_out], `padding` a pair (before, after) for each axis.
  """
  (rows, columns), (top, bottom), (left, right) = kernel.shape[:2], *padding
  n, height, width, _ = x.shape
  band = _band(x)
  bands = rearrange(x, "n (u r) w c -> (n u) r w c", r=band)

  def spread(_, part):
    """What a band of x adds to the rows of y around it, before they are cropped."""
    part = rearrange(part, "r w c -> c (r w)")
    part = jax.lax.optimization_barrier(part)  # one transpose for all products
    total = 0.0
    for i in range(rows):
      for j in range(columns):
        product = jnp.einsum("cp,co->po", part, kernel[i, j])
        product = rearrange(product, "(r w) o -> r w o", r=band)
        around = (rows - 1 - i, i), (columns - 1 - j, j), (0, 0)
        total += jnp.pad(product, around)
    return None, total

  _, parts = jax.lax.scan(spread, None, bands)
  parts = rearrange(parts, "(n u) r w o -> n u r w o", n=n)
  # The last rows of a band lie over the first ones of the next.
  over = rows - 1
  head, tail = parts[:, :, :band], parts[:, :, band:]
  head = jnp.pad(head, ((0, 0), (0, 1), (0, 0), (0, 0), (0, 0)))
  tail = jnp.pad(tail, ((0, 0), (1, 0), (0, band - over), (0, 0), (0, 0)))
  whole = rearrange(head + tail, "n u r w o -> n (u r) w o")
  down, across = over - top, columns - 1 - left
  tall, wide = height + top + bottom - over, width + left + right - columns + 1
  return whole[:, down : down + tall, across : across + wide]


def _band(x):
  """Rows of a band: the largest divisor of the height that fits."""
  _, height, width, channels = x.shape
  most = max(1, BAND // (width * channels * x.dtype.itemsize))
  return max(k for k in range(1, min(most, height) + 1) if height % k == 0)
