"""A convolution is a sum over the taps of its kernel, whatever computes it."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support import drawn, suite
from vdm_jax.layers import convs
from vdm_jax.layers.cpu import convolution

# Shape of x without the channels, kernel, stride, padding.
TWO, THREE = (2, 6, 8), (2, 5, 6, 8)
CASES = {
  "same": (TWO, (3, 3), 1, ((1, 1), (1, 1))),
  "stride 2, zeros below and right": (TWO, (3, 3), 2, ((0, 1), (0, 1))),
  "stride 2, zeros around": (TWO, (4, 4), 2, ((1, 1), (1, 1))),
  "unequal axes": (TWO, (1, 3), 1, ((0, 0), (2, 0))),
  "one pixel": (TWO, (1, 1), 1, ((0, 0), (0, 0))),
  "one pixel, stride 2": (TWO, (1, 1), 2, ((0, 0), (0, 0))),
  "three axes": (THREE, (3, 3, 3), 1, ((1, 1), (1, 1), (1, 1))),
  "three axes, stride 2": (THREE, (3, 3, 3), 2, ((2, 0), (0, 1), (1, 1))),
  "three axes, stride of two": (THREE, (3, 4, 4), (1, 2, 2), ((1, 1), (1, 1), (1, 1))),
  "three axes, three strides": (THREE, (2, 3, 1), (2, 3, 1), ((0, 1), (1, 0), (0, 0))),
}
# Where one product takes the place of XLA's convolution.
ALONG_TIME, SMALL = (2, 5, 4, 3), (3, 2, 2)
GATHERED = {
  "along time": (ALONG_TIME, (3, 1, 1), 1, ((1, 1), (0, 0), (0, 0))),
  "along time, causal": (ALONG_TIME, (3, 1, 1), 1, ((2, 0), (0, 0), (0, 0))),
  "along time, two frames": (ALONG_TIME, (2, 1, 1), 1, ((0, 0), (0, 0), (0, 0))),
  "2 x 2 pixels": (SMALL, (3, 3), 1, ((1, 1), (1, 1))),
  "2 x 2 pixels, zeros below": (SMALL, (3, 3), 1, ((0, 2), (0, 2))),
  "2 x 2 pixels and time": ((2, 4, 2, 2), (3, 3, 3), 1, ((1, 1), (1, 1), (1, 1))),
}
ALL = CASES | GATHERED


def taps(x, kernel, dy, stride, padding):
  """(y, gradients for x and kernel) by the definition, in float64.

  Each kernel pixel adds the product of its matrix with a slice of x.
  """
  x = np.pad(np.float64(x), ((0, 0), *padding, (0, 0)))
  y, dx, dk = np.zeros(dy.shape), np.zeros(x.shape), np.zeros(kernel.shape)
  strides = np.broadcast_to(stride, x.ndim - 2).tolist()
  for tap in np.ndindex(kernel.shape[:-2]):
    ends = (i + s * n for i, s, n in zip(tap, strides, dy.shape[1:-1], strict=True))
    at = (slice(None), *map(slice, tap, ends, strides))
    y += x[at] @ kernel[tap]
    dx[at] += dy @ kernel[tap].T
    dk[tap] = np.tensordot(x[at], dy, [range(x.ndim - 1)] * 2)
  inside = zip(padding, x.shape[1:-1], strict=True)
  inside = (slice(before, n - after) for (before, after), n in inside)
  return y, dx[(slice(None), *inside)], dk


QUICK = (
  "same",
  "stride 2, zeros below and right",
  "one pixel, stride 2",
  "three axes, stride 2",
  "along time, causal",
  "2 x 2 pixels, zeros below",
)


@pytest.mark.parametrize("name", suite.choose(ALL, *QUICK))
def test_convolution_and_its_gradients_are_the_sum_over_taps(name):
  shape, size, stride, padding = ALL[name]
  ways = [convs.convolve]
  if name in GATHERED:
    assert convolution.im2col_beats_xla(shape[1:], size)
    ways.append(lambda x, k, *rest: convolution.im2col(None, x, k, *rest))
  x, kernel = drawn.normals((*shape, 5), (*size, 5, 4))
  kernel /= 5
  convolve = lambda fn: lambda x, k: fn(x, k, stride, padding)
  dy = drawn.normal(*jax.eval_shape(convolve(ways[0]), x, kernel).shape, seed=1)

  @jax.jit
  def all_ways(x, kernel):
    outs = [jax.vjp(convolve(fn), x, kernel) for fn in ways]
    return [(y, *pull(dy)) for y, pull in outs]

  expected = taps(x, kernel, dy, stride, padding)
  for found in jax.device_get(all_ways(x, kernel)):
    for a, b in zip(found, expected, strict=True):
      np.testing.assert_allclose(a, b, atol=1e-5 * max(1.0, np.abs(b).max()))
  if max(size) > 1:  # the test sees a mirrored kernel
    kernel = np.flip(kernel, range(len(size)))
    mirrored, *_ = taps(x, kernel, dy, stride, padding)
    assert not np.allclose(found[0], mirrored, atol=1e-2)


def test_larger_kernels_and_images_are_left_to_the_compiler():
  for size, kernel in (((4, 4), (3, 3)), ((4, 4, 4), (3, 3, 3)), ((3, 2), (3, 3))):
    assert not convolution.im2col_beats_xla(size, kernel)


@pytest.mark.parametrize("kernel", [(3, 3), (1, 1), (5, 3), (2, 2)])
def test_default_padding_keeps_the_size(kernel):
  conv = convs.Conv(7, kernel)
  args = jax.random.key(0), np.zeros((2, 6, 8, 3))
  out, _ = jax.eval_shape(conv.init_with_output, *args)
  assert out.shape == (2, 6, 8, 7)


def test_parameters_carry_logical_names_and_stay_float32():
  conv = convs.Conv(4, dtype=jnp.bfloat16)
  args = jax.random.key(0), np.zeros((1, 4, 4, 3))
  out, variables = jax.eval_shape(conv.init_with_output, *args)
  params = variables["params"]
  assert params["kernel"].names == (None, None, "conv_in", "conv_out")
  assert params["bias"].names == ("conv_out",)
  assert {x.dtype for x in nn.unbox(params).values()} == {jnp.dtype("float32")}
  assert out.dtype == jnp.bfloat16


def test_wrong_rank_is_refused():
  with pytest.raises(ValueError, match=r"kernel=\(3, 3\).*got shape \(2, 4, 6, 6, 3\)"):
    convs.Conv(4).init(jax.random.key(0), jnp.zeros((2, 4, 6, 6, 3)))


@pytest.mark.parametrize("stride", [(2, 2, 2), (1, 2, 2)])
def test_a_transposed_convolution_is_one_with_zeros_between(stride):
  x, kernel = drawn.normals((2, 5, 6, 7, 3), (4, 4, 4, 3, 2))

  @jax.jit
  def both(x, kernel):
    expected = jax.lax.conv_general_dilated(
      x,
      kernel[::-1, ::-1, ::-1],
      window_strides=(1, 1, 1),
      padding=((0, 0),) * 3,
      lhs_dilation=stride,
      dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
    )
    return convs.transposed_convolution(x, kernel, stride), expected

  out, expected = both(x, kernel)
  assert out.shape == expected.shape
  np.testing.assert_allclose(out, expected, atol=1e-4)
