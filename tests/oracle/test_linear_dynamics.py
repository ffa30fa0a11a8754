"""Linear dynamics: the regression and the smoother are one denoiser, and the data's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.diffusion import process as p
from vdm_jax.oracle import linear_dynamics as ld

TURN = ld.rotation(0.6, 0.95)
NEW = np.array([[0.1, 0.02], [0.02, 0.05]])
WORLD = ld.LinearDynamics(TURN, NEW, ld.stationary(TURN, NEW))
SHAPE = (3, 6, 2, 1, 1)


@pytest.fixture(autouse=True)
def double():
  with jax.enable_x64(True):
    yield


@pytest.mark.parametrize("process", [p.Flow(), p.EDM()], ids=["flow", "edm"])
def test_the_smoother_is_the_regression(process):
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.standard_normal(SHAPE))
  t = process.t_max * jnp.asarray(rng.uniform(0.05, 0.9, SHAPE[:2])).at[:, 2].set(0.0)
  joint = jax.jit(WORLD.denoiser(process))(x, t, None).x0
  smooth = jax.jit(WORLD.smoother(process))(x, t, None).x0
  np.testing.assert_allclose(smooth, joint, atol=1e-5)
  wrong = ld.LinearDynamics(TURN.T, NEW, WORLD.initial)
  other = jax.jit(wrong.smoother(process))(x, t, None).x0
  assert np.abs(other - joint).max() > 1e-2


def test_samples_have_the_covariance_and_it_lasts():
  x = np.asarray(WORLD.sample(jax.random.key(0), (20_000, *SHAPE[1:])))
  np.testing.assert_allclose(
    np.cov(x.reshape(len(x), -1).T), WORLD.covariance(6), atol=0.04
  )
  cov = np.asarray(WORLD.covariance(6)).reshape(6, 2, 6, 2)
  for k in range(6):
    np.testing.assert_allclose(cov[k, :, k], WORLD.initial, rtol=1e-9)
  with pytest.raises(ValueError, match="grow for ever"):
    ld.stationary(ld.rotation(0.1, 1.0), NEW)


def test_what_is_given_is_continued_by_the_dynamics():
  """After two clean frames the best guess of the next is M x: the past adds nothing."""
  process = p.Flow()
  x = jnp.asarray(np.random.default_rng(1).standard_normal((1, 4, 2, 1, 1)))
  t = jnp.asarray([[0.0, 0.0, 1.0, 1.0]])
  out = WORLD.denoiser(process)(x, t, None).x0[0, :, :, 0, 0]
  np.testing.assert_allclose(out[2], TURN @ x[0, 1, :, 0, 0], atol=1e-3)
  np.testing.assert_allclose(out[3], TURN @ TURN @ x[0, 1, :, 0, 0], atol=1e-3)


def test_a_wrong_number_of_values_is_refused():
  x = jnp.zeros((1, 3, 3, 1, 1))
  for make in (WORLD.denoiser, WORLD.smoother):
    with pytest.raises(
      ValueError, match="has 3 numbers a frame; these dynamics move 2"
    ):
      make(p.Flow())(x, jnp.ones((1, 3)), None)
