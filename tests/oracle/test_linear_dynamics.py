"""Linear dynamics: regression and Kalman smoother are one denoiser, and the data's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support import suite
from vdm_jax.conditioning import Conditioning
from vdm_jax.diffusion import process as p
from vdm_jax.oracle import linear_dynamics as ld

pytestmark = pytest.mark.usefixtures("double")
TURN = ld.damped_rotation(0.6, 0.95)
NEW = np.array([[0.1, 0.02], [0.02, 0.05]])
WORLD = ld.LinearDynamics(TURN, NEW, ld.stationary_covariance(TURN, NEW))
SHAPE = (3, 6, 2, 1, 1)
# EDM's own 80 would drown these videos.
PROCESSES = [p.Flow(), *suite.only_complete(p.EDM(t_max=3.0))]
each_process = pytest.mark.parametrize("process", PROCESSES, ids=str)


def unrolled(positions):
  """Cov of x_k = M^k x_0 + sum_i M^(k - 1 - i) w_i at `positions`, term by term."""
  power = np.linalg.matrix_power
  first = np.concatenate([power(TURN, k) for k in positions])
  cov = first @ WORLD.initial @ first.T
  for i in range(max(positions)):
    after = [power(TURN, k - 1 - i) if k > i else np.zeros((2, 2)) for k in positions]
    cov += np.concatenate(after) @ NEW @ np.concatenate(after).T
  return cov


def case(process):
  rng = np.random.default_rng(0)
  x = rng.standard_normal(SHAPE)
  return x, process.t_max * rng.uniform(0.05, 0.9, SHAPE[:2])


@each_process
def test_the_regression_is_tweedies(process):
  """And frames may lie apart, or out of order."""
  x, t = case(process)
  places = [0, 1, 5, 3, 9, 20]

  def log_density(x, alpha, sigma):  # [T, 2, 1, 1], [T], [T]
    a, s = jnp.repeat(alpha, 2), jnp.repeat(sigma, 2)
    cov = a[:, None] * unrolled(places) * a + jnp.diag(s**2)
    return jax.scipy.stats.multivariate_normal.logpdf(x.ravel(), jnp.zeros(12), cov)

  @jax.jit
  def run(x, t):
    alpha, sigma = process.alpha_sigma(t)
    score = jax.vmap(jax.grad(log_density))(x, alpha, sigma)
    expected = (x + p.expand(sigma**2) * score) / p.expand(alpha)
    cond = Conditioning(positions=jnp.asarray([places]))
    outs = [WORLD.denoiser(process)(x, t, c).x0 for c in (cond, None)]
    return WORLD.covariance(jnp.asarray(places)), expected, *outs

  covariance, expected, out, near = map(np.asarray, run(x, t))
  np.testing.assert_allclose(covariance, unrolled(places), atol=1e-12)
  np.testing.assert_allclose(out, expected, rtol=1e-9, atol=1e-9)
  assert np.abs(near - expected).max() > 1e-2


@each_process
def test_the_smoother_is_the_regression(process):
  x, t = case(process)
  cond = Conditioning(positions=np.array([[0, 1, 2, 5, 6, 20]]))

  @jax.jit
  def run(transition, t):
    world = ld.LinearDynamics(transition, NEW, WORLD.initial)
    makes = world.denoiser, world.kalman_denoiser
    return [make(process)(x, t, cond).x0 for make in makes]

  joint, smooth = np.asarray(run(TURN, t))
  np.testing.assert_allclose(smooth, joint, rtol=1e-9, atol=1e-9)
  assert np.abs(run(TURN.T, t)[1] - joint).max() > 1e-2
  t[:, 2] = 0.0  # clean frames: what sigma = FLOOR leaves of double precision
  joint, smooth = np.asarray(run(TURN, t))
  np.testing.assert_allclose(smooth, joint, atol=1e-5)


def test_samples_have_the_covariance_and_it_lasts():
  run = lambda key: (WORLD.sample(key, (20_000, *SHAPE[1:])), WORLD.covariance(6))
  x, cov = map(np.asarray, jax.jit(run)(jax.random.key(0)))
  np.testing.assert_allclose(np.cov(x.reshape(len(x), -1).T), cov, atol=0.04)
  cov = cov.reshape(6, 2, 6, 2)
  for k in range(6):
    np.testing.assert_allclose(cov[k, :, k], WORLD.initial, rtol=1e-9)
  with pytest.raises(ValueError, match="not stable"):
    ld.stationary_covariance(ld.damped_rotation(0.1, 1.0), NEW)


def test_what_is_given_is_continued_by_the_dynamics():
  """After two clean frames the best guess of the next is M x: the past adds nothing."""
  x = np.random.default_rng(1).standard_normal((1, 4, 2, 1, 1))
  t = np.array([[0.0, 0.0, 1.0, 1.0]])
  out = np.asarray(jax.jit(WORLD.denoiser(p.Flow()))(x, t, None).x0)[0, :, :, 0, 0]
  np.testing.assert_allclose(out[2], TURN @ x[0, 1, :, 0, 0], atol=1e-3)
  np.testing.assert_allclose(out[3], TURN @ TURN @ x[0, 1, :, 0, 0], atol=1e-3)


def test_a_wrong_number_of_values_is_refused():
  x = np.zeros((1, 3, 3, 1, 1))
  for make in (WORLD.denoiser, WORLD.kalman_denoiser):
    with pytest.raises(ValueError, match="3 numbers a frame; these dynamics move 2"):
      make(p.Flow())(x, np.ones((1, 3)), None)
