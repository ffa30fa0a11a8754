"""A convolution is a sum over the taps of its kernel, whatever computes it."""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support import suite
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


def taps(x, kernel, stride, padding):
  """The definition: one slice of x and one matrix product for each kernel pixel."""
  x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
  spatial = kernel.shape[:-2]
  strides = np.broadcast_to(stride, len(spatial)).tolist()
  every = list(zip(x.shape[1:-1], spatial, strides, strict=True))
  sizes = [(n - k) // s + 1 for n, k, s in every]
  total = 0.0
  for tap in itertools.product(*map(range, spatial)):
    cut = tuple(
      slice(i, i + s * (n - 1) + 1, s)
      for i, n, s in zip(tap, sizes, strides, strict=True)
    )
    total += x[(slice(None), *cut)] @ kernel[tap]
  return total


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
  ways = [convs.convolve, taps]
  if name in GATHERED:
    assert convolution.im2col_beats_xla(shape[1:], size)
    ways.append(lambda x, k, *rest: convolution.im2col(None, x, k, *rest))
  k_x, k_kernel, k_out = jax.random.split(jax.random.key(0), 3)
  x = jax.random.normal(k_x, (*shape, 5))
  kernel = jax.random.normal(k_kernel, (*size, 5, 4)) / 5

  @jax.jit
  def all_ways(x, kernel):
    outs = []
    for fn in ways:
      y, pull = jax.vjp(lambda x, k: fn(x, k, stride, padding), x, kernel)  # noqa: B023
      outs.append((y, *pull(jax.random.normal(k_out, y.shape))))
    return outs

  ours, reference, *others = all_ways(x, kernel)
  for out in (ours, *others):
    for a, b in zip(out, reference, strict=True):
      np.testing.assert_allclose(a, b, atol=1e-5 * max(1.0, float(jnp.abs(b).max())))
  if max(size) > 1:  # the test sees a mirrored kernel
    mirrored = taps(x, jnp.flip(kernel, range(len(size))), stride, padding)
    assert not np.allclose(ours[0], mirrored, atol=1e-2)


def test_larger_kernels_and_images_are_left_to_the_compiler():
  for size, kernel in (((4, 4), (3, 3)), ((4, 4, 4), (3, 3, 3)), ((3, 2), (3, 3))):
    assert not convolution.im2col_beats_xla(size, kernel)


@pytest.mark.parametrize("kernel", [(3, 3), (1, 1), (5, 3), (2, 2)])
def test_default_padding_keeps_the_size(kernel):
  conv = convs.Conv(7, kernel)
  out, _ = jax.eval_shape(
    conv.init_with_output, jax.random.key(0), jnp.zeros((2, 6, 8, 3))
  )
  assert out.shape == (2, 6, 8, 7)


def test_parameters_carry_logical_names_and_stay_float32():
  conv = convs.Conv(4, dtype=jnp.bfloat16)
  out, variables = jax.eval_shape(
    conv.init_with_output, jax.random.key(0), jnp.zeros((1, 4, 4, 3))
  )
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
  rng = np.random.default_rng(0)
  x = rng.standard_normal((2, 5, 6, 7, 3)).astype(np.float32)
  kernel = rng.standard_normal((4, 4, 4, 3, 2)).astype(np.float32)
  expected = jax.lax.conv_general_dilated(
    x,
    kernel[::-1, ::-1, ::-1],
    window_strides=(1, 1, 1),
    padding=((0, 0),) * 3,
    lhs_dilation=stride,
    dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
  )
  out = convs.transposed_convolution(x, kernel, stride)
  assert out.shape == expected.shape
  np.testing.assert_allclose(out, expected, atol=1e-4)
