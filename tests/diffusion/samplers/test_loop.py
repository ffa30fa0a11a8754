"""The loop walks its grid once, and its noise belongs to frames."""

import jax
import numpy as np

from vdm_jax.diffusion import process as p
from vdm_jax.diffusion.samplers import loop

KEY = jax.random.key(0)
SHAPE = (4, 6, 16, 16, 4)
DRAW = jax.jit(loop.noise_by_frame, static_argnums=1)


def by_frame(key, first):
  return np.asarray(DRAW(key, SHAPE, first))


def test_steps_follow_the_grid():
  def step(denoise, x, t, t_next, key):
    return 10 * x + p.expand(t) - p.expand(t_next)

  run = jax.jit(lambda x, ts: loop.run_steps(step, None, x, ts, KEY))
  out = run(np.zeros((2, 3, 1, 1, 1)), np.array([6.0, 3.0, 1.0, 0.0]))
  np.testing.assert_array_equal(out, np.full(out.shape, 321.0))
  ts = np.array([[6.0, 6.0, 0.0], [3.0, 6.0, 0.0], [1.0, 5.0, 0.0]])
  out = np.asarray(run(np.ones((1, 3, 1, 1, 1)), ts))
  np.testing.assert_array_equal(out[0, :, 0, 0, 0], [132, 11, 1])


def test_the_last_starts_are_those_of_each_frame():
  ts = np.array([[6.0, 6.0, 5.0], [3.0, 6.0, 5.0], [1.0, 2.0, 5.0], [0.0, 1.0, 5.0]])
  np.testing.assert_array_equal(
    loop.last_step_times(ts, 3, 2), [[1.0, 2.0, np.inf], [3.0, 6.0, np.inf]]
  )


def test_every_step_has_its_own_key():
  step = lambda denoise, x, t, t_next, key: x + jax.random.normal(key, x.shape)
  x, ts = np.zeros((1, 1, 32, 32, 4), np.float32), np.array([2.0, 1.0, 0.0])
  two = np.asarray(jax.jit(lambda x: loop.run_steps(step, None, x, ts, KEY))(x))
  np.testing.assert_allclose(two.var(), 2.0, rtol=0.1)  # one key twice would be 4


def test_noise_is_normal_and_differs_between_frames():
  noise = by_frame(KEY, 0)
  np.testing.assert_allclose(noise.mean(), 0.0, atol=0.03)
  np.testing.assert_allclose(noise.std(), 1.0, atol=0.02)
  flat = noise.swapaxes(0, 1).reshape(SHAPE[1], -1)
  off = np.corrcoef(flat) - np.eye(SHAPE[1])
  assert np.abs(off).max() < 4 / np.sqrt(flat.shape[1])


def test_noise_does_not_depend_on_how_frames_are_cut():
  early, late = by_frame(KEY, 0), by_frame(KEY, 4)
  np.testing.assert_array_equal(early[:, 4:], late[:, :2])
  assert not np.array_equal(early[:, :2], late[:, :2])
  assert not np.array_equal(early, by_frame(jax.random.key(1), 0))
