"""Noise is standard normal in every frame and related as it says."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support import drawn, suite
from tests.support.refusals import refused
from vdm_jax.diffusion import denoise as d
from vdm_jax.diffusion import noise
from vdm_jax.diffusion import process as p
from vdm_jax.diffusion.samplers import euler

KEY = jax.random.key(0)
SHAPE = (1, 12, 60, 60, 4)


def correlation(eps, shape=SHAPE):
  """[T, T] between frames, over all their values."""
  assert eps.shape == shape
  frames = np.moveaxis(np.asarray(eps), 1, 0).reshape(shape[1], -1)
  np.testing.assert_allclose(frames.std(axis=1), 1.0, atol=0.03)
  np.testing.assert_allclose(frames.mean(axis=1), 0.0, atol=0.04)
  return np.corrcoef(frames)


def test_shared_noise_correlates_by_its_fraction():
  expected = np.where(np.eye(12), 1.0, 0.3)
  out = correlation(jax.jit(lambda k: noise.mixed(k, SHAPE, fraction=0.3))(KEY))
  np.testing.assert_allclose(out, expected, atol=0.04)


def test_progressive_noise_is_autoregressive():
  i = np.arange(12)
  expected = 0.8 ** np.abs(i[:, None] - i)
  draw = jax.jit(lambda k: noise.progressive(k, SHAPE, correlation=0.8))
  out = correlation(draw(KEY))
  np.testing.assert_allclose(out, expected, atol=0.04)


@pytest.mark.parametrize("num_frames", [11, 4, 3, *suite.only_complete(12)])
def test_free_noise_repeats_the_first_window_shuffled(num_frames):
  @jax.jit
  def both(key):
    order = noise.free_noise_order(key, num_frames, 4, 2)
    return noise.free_noise(key, shape, window=4, stride=2), order

  shape = 1, num_frames, *SHAPE[2:]
  eps, order = map(np.asarray, both(KEY))
  np.testing.assert_array_equal(order[:4], range(4)[:num_frames])
  for start in range(4, num_frames, 2):  # the same two as a window before
    new, old = order[start : start + 2], order[start - 4 : start - 2]
    assert set(new) <= set(old) and len(set(new)) == len(new)
  expected = (order[:, None] == order).astype(float)
  np.testing.assert_allclose(correlation(eps, shape), expected, atol=0.04)


def test_free_noise_is_a_shuffle():
  order = lambda seed: noise.free_noise_order(jax.random.key(seed), 16, 8, 8)
  orders = np.asarray(jax.jit(jax.vmap(order))(np.arange(9)))
  assert len({order.tobytes() for order in orders}) > 5


@pytest.mark.parametrize("sizes", [(4, 6, 8), (5, 7, 9), (21, 3, 2)])
def test_the_filter_is_real_for_odd_sizes_and_splits_the_noise(sizes):
  x = np.random.default_rng(0).standard_normal((1, *sizes, 2)).astype(np.float32)
  gain = noise.butterworth_gain(sizes, 0.25, 4)
  spectrum = np.fft.fftn(x, axes=(1, 2, 3)) * gain[None, ..., None]
  out = np.fft.ifftn(spectrum, axes=(1, 2, 3))
  assert np.abs(out.imag).max() < 1e-12 * np.abs(out.real).max() + 1e-15
  filtered = jax.jit(noise.filter_spectrum)
  np.testing.assert_allclose(filtered(x, gain), out.real, atol=1e-5)
  np.testing.assert_allclose(filtered(x, np.ones(sizes)), x, atol=1e-5)
  assert gain.flat[0] == 1.0 and gain.max() == 1.0 and gain.min() < 1e-2
  # The published filter, on shifted axes 2 i / n - 1, is right for even sizes alone.
  grids = np.meshgrid(*(2 * np.arange(n) / n - 1 for n in sizes), indexing="ij")
  theirs = 1 / (1 + (sum(g**2 for g in grids) / 0.25**2) ** 4)
  same = np.allclose(np.fft.ifftshift(theirs), gain)
  assert same == all(n % 2 == 0 for n in sizes)


def test_free_init_starts_again_from_low_frequencies():
  """With one known video, the second start holds its low frequencies and its noise."""
  process, ts = p.DDPM(), np.array([1000.0, 500.0, 0.0])
  shape = (2, 5, 6, 7, 3)
  eps = drawn.normal(*shape)

  @jax.jit
  def run(eps):
    starts = []

    def sampler(denoise, process, x, ts, cond, key):
      starts.append(x)
      return jnp.full_like(x, 50.0)

    args = (None, process, eps, ts, None, KEY)
    noise.free_init(*args, sampler=sampler, iterations=3)
    return starts

  starts = [np.asarray(start) for start in run(eps)]
  np.testing.assert_array_equal(starts[0], eps)
  gain = noise.butterworth_gain(shape[1:4], 0.25, 4)
  filtered = jax.jit(noise.filter_spectrum)
  alpha = np.sqrt(np.prod(1.0 - process.betas))
  low = filtered(np.float32(alpha * 50.0 + eps), gain)
  for start in starts[1:]:
    high = start - low
    np.testing.assert_allclose(filtered(high, np.float64(gain == 1.0)), 0, atol=1e-4)
    assert 0.8 < high.std() < 1.05
  assert np.abs(starts[1] - starts[2]).max() > 0.1  # new noise each time
  once = functools.partial(noise.free_init, sampler=euler.euler, iterations=1)
  args = lambda x, t, cond: d.Denoised(0.5 * x), process, eps, ts, None, KEY
  np.testing.assert_array_equal(*jax.jit(lambda: (once(*args), euler.euler(*args)))())


def test_wrong_numbers_are_refused():
  init = functools.partial(noise.free_init, None, p.Flow(), 0, 0, None, KEY)
  calls = {
    "fraction=1.5.*between 0 and 1": lambda: noise.mixed(KEY, SHAPE, fraction=1.5),
    "-0.1.*between 0 and 1": lambda: noise.progressive(KEY, SHAPE, correlation=-0.1),
    "1 to window=4": lambda: noise.free_noise_order(KEY, 12, 4, stride=5),
    "at least once": lambda: init(sampler=None, iterations=0),
  }
  refused(ValueError, calls)
