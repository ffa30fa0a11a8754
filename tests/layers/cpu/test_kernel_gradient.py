"""Our gradient of a convolution's kernel is the convolution's gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support import drawn, suite
from vdm_jax.layers import convs
from vdm_jax.layers.cpu import kernel_gradient

CASES = {
  "square": ((2, 8, 8, 4), (3, 3, 4, 5), ((1, 1), (1, 1))),
  "oblong": ((1, 12, 5, 3), (3, 3, 3, 2), ((1, 1), (1, 1))),
  "uneven padding": ((2, 8, 6, 2), (3, 3, 2, 3), ((0, 1), (2, 0))),
  "no padding": ((1, 8, 9, 2), (3, 5, 2, 3), ((0, 0), (0, 0))),
  "along one axis": ((1, 8, 4, 2), (3, 1, 2, 3), ((1, 1), (0, 0))),
}


def draw(case):
  shape, kernel, padding = CASES[case]
  return *drawn.normals(shape, kernel), padding


@pytest.fixture(autouse=True)
def small_bands(monkeypatch):
  monkeypatch.setattr(kernel_gradient, "BAND", 600)
  monkeypatch.setattr(kernel_gradient, "CHANNELS", 2)


def close(found, expected, bound=1e-5):
  """Whether each array of one tuple is near that of the other."""
  for a, b in zip(*map(jax.device_get, (found, expected)), strict=True):
    np.testing.assert_allclose(a, b, atol=bound * np.abs(b).max(), rtol=0)


def penalty(f, x, kernel):
  """The gradient of the squared gradient of a score."""
  score = lambda x, k: jnp.sum(jnp.tanh(f(x, k)))
  return jax.grad(lambda k: jnp.sum(jax.grad(score)(x, k) ** 2))(kernel)


def derivatives(f, x, kernel):
  """(output, gradients for x and the kernel, tangent) of f."""
  y, pull = jax.vjp(f, x, kernel)
  dy, *tangents = drawn.normals(y.shape, x.shape, kernel.shape, seed=1)
  return y, *pull(dy), jax.jvp(f, (x, kernel), tuple(tangents))[1]


def both(of, ours, theirs, *args):
  """of(f, *args) of both functions, by one compiled program."""
  return jax.jit(lambda *args: [of(f, *args) for f in (ours, theirs)])(*args)


def ways(padding):
  """(our convolution, XLA's)."""
  ours = functools.partial(kernel_gradient.convolve_with_fast_gradient, padding)
  return ours, lambda x, kernel: jax.lax.conv_general_dilated(
    x, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
  )


# Two more tests are of "square".
@pytest.mark.parametrize("case", suite.choose(CASES, *list(CASES)[1:]))
def test_gradients_and_tangents_are_those_of_the_convolution(case):
  x, kernel, padding = draw(case)
  close(*both(derivatives, *ways(padding), x, kernel))


def test_a_product_has_the_derivatives_of_a_product():
  x, kernel, dy = drawn.normals((2, 3, 4), (4, 6), (2, 3, 6))
  ours = kernel_gradient.matmul_with_fast_gradient
  assert "custom_jvp_call" in str(jax.make_jaxpr(ours)(x, kernel))
  assert "custom_jvp_call" not in str(jax.make_jaxpr(ours)(dy, kernel.T))  # 6 to 4

  def everything(f, x, kernel):
    # A zero tangent takes another way.
    jacobians = [jax.jacobian(f, i)(x, kernel) for i in (0, 1)]
    return *derivatives(f, x, kernel), *jacobians, penalty(f, x, kernel)

  close(*both(everything, ours, jnp.matmul, x, kernel))


def test_there_is_more_than_one_band():
  x, kernel, _ = draw("square")
  assert kernel.shape[0] <= kernel_gradient._band(x) < x.shape[1]
  assert kernel_gradient.beats_xla(x, kernel)


def test_a_gradient_of_a_gradient_and_a_batch_of_them():
  x, kernel, padding = draw("square")

  def everything(f, x, kernels):
    square = lambda k: jnp.sum(f(x, k) ** 2)
    return penalty(f, x, kernels[0]), jax.vmap(jax.grad(square))(kernels)

  kernels = np.stack([kernel, kernel[::-1]])
  close(*both(everything, *ways(padding), x, kernels))


def test_a_band_that_forgets_its_neighbour_is_seen(monkeypatch):
  x, kernel, padding = draw("square")
  right = kernel_gradient.convolve_in_bands

  def forgetful(padding, x, kernel):
    halves = jnp.split(x, 2, axis=1)
    return jnp.concatenate([right(padding, half, kernel) for half in halves], axis=1)

  monkeypatch.setattr(kernel_gradient, "convolve_in_bands", forgetful)
  (*_, found, _), (*_, expected, _) = both(derivatives, *ways(padding), x, kernel)
  with pytest.raises(AssertionError):
    close([found], [expected], bound=1e-2)


def test_the_layer_takes_it_for_large_images_on_one_cpu(monkeypatch):
  x, kernel, padding = draw("square")
  program = lambda: str(
    jax.make_jaxpr(lambda x, k: convs.convolve(x, k, 1, padding))(x, kernel)
  )
  assert "custom_jvp_call" in program()
  monkeypatch.setattr(kernel_gradient, "BAND", 2**20)
  assert "custom_jvp_call" not in program()
