"""Our gradient of a convolution's kernel is the convolution's gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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
  rng = np.random.default_rng(0)
  array = lambda *s: jnp.asarray(rng.normal(size=s), jnp.float32)
  return array(*shape), array(*kernel), padding, array


def plain(padding, x, kernel):
  return jax.lax.conv_general_dilated(
    x, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
  )


@pytest.fixture(autouse=True)
def small_bands(monkeypatch):
  monkeypatch.setattr(kernel_gradient, "BAND", 600)
  monkeypatch.setattr(kernel_gradient, "CHANNELS", 2)


def close(a, b, bound=1e-5):
  np.testing.assert_allclose(a, b, atol=bound * float(jnp.abs(b).max()), rtol=0)


def penalty(f, x, kernel):
  """The gradient of the squared gradient of a score."""
  score = lambda x, k: jnp.sum(jnp.tanh(f(x, k)))
  return jax.grad(lambda k: jnp.sum(jax.grad(score)(x, k) ** 2))(kernel)


@pytest.mark.parametrize("case", CASES)
def test_gradients_and_tangents_are_those_of_the_convolution(case):
  x, kernel, padding, array = draw(case)
  ours = lambda x, k: kernel_gradient.convolve_with_fast_gradient(padding, x, k)
  theirs = lambda x, k: plain(padding, x, k)
  y, pull = jax.vjp(ours, x, kernel)
  want, want_pull = jax.vjp(theirs, x, kernel)
  close(y, want)
  dy = array(*y.shape)
  for got, expected in zip(pull(dy), want_pull(dy), strict=True):
    close(got, expected)
  tangents = array(*x.shape), array(*kernel.shape)
  close(
    jax.jvp(ours, (x, kernel), tangents)[1], jax.jvp(theirs, (x, kernel), tangents)[1]
  )


def test_a_product_has_the_derivatives_of_a_product():
  rng = np.random.default_rng(0)
  array = lambda *s: jnp.asarray(rng.normal(size=s), jnp.float32)
  x, kernel, dy = array(2, 3, 4), array(4, 6), array(2, 3, 6)
  ours, plain = kernel_gradient.matmul_with_fast_gradient, jnp.matmul
  assert "custom_jvp_call" in str(jax.make_jaxpr(ours)(x, kernel))
  assert "custom_jvp_call" not in str(jax.make_jaxpr(ours)(dy, kernel.T))  # 6 to 4
  both = [jax.vjp(f, x, kernel)[1](dy) for f in (ours, plain)]
  for got, expected in zip(*both, strict=True):
    close(got, expected)
  tangents = array(*x.shape), array(*kernel.shape)
  close(*(jax.jvp(f, (x, kernel), tangents)[1] for f in (ours, plain)))
  for i in (0, 1):  # a zero tangent takes another way
    close(*(jax.jacobian(f, i)(x, kernel) for f in (ours, plain)))
  close(*(penalty(f, x, kernel) for f in (ours, plain)))


def test_there_is_more_than_one_band():
  x, kernel, *_ = draw("square")
  assert kernel.shape[0] <= kernel_gradient._band(x) < x.shape[1]
  assert kernel_gradient.beats_xla(x, kernel)


def test_a_gradient_of_a_gradient_and_a_batch_of_them():
  x, kernel, padding, array = draw("square")

  def penalty(convolve):
    score = lambda x, k: jnp.sum(jnp.tanh(convolve(padding, x, k)))
    return lambda k: jnp.sum(jax.grad(score)(x, k) ** 2)

  close(
    jax.grad(penalty(kernel_gradient.convolve_with_fast_gradient))(kernel),
    jax.grad(penalty(plain))(kernel),
  )
  kernels = array(2, *kernel.shape)
  many = lambda convolve: jax.vmap(
    jax.grad(lambda k: jnp.sum(convolve(padding, x, k) ** 2))
  )(kernels)
  close(many(kernel_gradient.convolve_with_fast_gradient), many(plain))


def test_a_band_that_forgets_its_neighbour_is_seen(monkeypatch):
  x, kernel, padding, array = draw("square")
  dy = array(2, 8, 8, 5)
  want = jax.vjp(lambda k: plain(padding, x, k), kernel)[1](dy)[0]
  right = kernel_gradient.convolve_in_bands

  def forgetful(padding, x, kernel):
    halves = jnp.split(x, 2, axis=1)
    return jnp.concatenate([right(padding, half, kernel) for half in halves], axis=1)

  monkeypatch.setattr(kernel_gradient, "convolve_in_bands", forgetful)
  ours = lambda k: kernel_gradient.convolve_with_fast_gradient(padding, x, k)
  got = jax.vjp(ours, kernel)[1](dy)[0]
  assert jnp.abs(got - want).max() > 1e-2 * jnp.abs(want).max()


def test_the_layer_takes_it_for_large_images_on_one_cpu(monkeypatch):
  x, kernel, padding, _ = draw("square")
  program = lambda: str(
    jax.make_jaxpr(lambda x, k: convs.convolve(x, k, 1, padding))(x, kernel)
  )
  assert "custom_jvp_call" in program()
  monkeypatch.setattr(kernel_gradient, "BAND", 2**20)
  assert "custom_jvp_call" not in program()
