"""Every process, held to the contract: a new one adds a line to PROCESSES."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support import drawn
from vdm_jax.diffusion import process as p
from vdm_jax.diffusion import signal_scale
from vdm_jax.pretrained.schedulers import processes

RATIOS = tuple(np.geomspace(0.01, 150.0, 100))

PROCESSES = {
  "ddpm-linear": p.DDPM(),
  "ddpm-scaled-linear": p.DDPM(schedule="scaled_linear"),
  "ddpm-squaredcos": p.DDPM(schedule="squaredcos"),
  "signal-scale": signal_scale.SignalScale(p.DDPM(schedule="scaled_linear")),
  "cosine": p.Cosine(),
  "flow": p.Flow(),
  "edm": p.EDM(),
  "sigma-table": processes.SigmaTableProcess(RATIOS, t_max=150.0, log_index=True),
}
SHAPE = (2, 8, 3, 2, 4)
each_process = pytest.mark.parametrize(
  "process", PROCESSES.values(), ids=PROCESSES.keys()
)


def predictions(process):
  return [k for k in p.PREDICTIONS if k != "edm" or hasattr(process, "sigma_data")]


def times(process):
  """[2, 8]: 0, times close to 0, the middle, t_max; unlike in both rows."""
  u = [0.0, 1e-7, 1e-4, 0.003, 0.2, 0.5, 0.9, 1.0]
  return process.t_max * jnp.array([u, u[::-1]])


@each_process
def test_a_process_runs_from_the_data_to_the_noise(process):
  t = process.t_max * jnp.linspace(0.0, 1.0, 1001)[None]
  alpha, sigma = process.alpha_sigma(t)
  assert alpha.shape == sigma.shape == t.shape
  assert alpha.dtype == sigma.dtype == jnp.float32
  assert (np.diff(sigma) > 0).all() and (np.diff(alpha) <= 0).all()
  assert (alpha >= p.FLOOR).all() and (sigma >= p.FLOOR).all()
  assert alpha[0, 0] == 1.0 and sigma[0, 0] == np.float32(p.FLOOR)
  assert sigma[0, -1] / alpha[0, -1] > 10  # nothing but noise is left


@each_process
def test_rates_are_the_derivatives(process):
  # Off the knots of the tables, off the floors.
  t = process.t_max * jnp.array([[0.00153, 0.0517, 0.3331, 0.5003, 0.8007, 0.9991]])
  _, slopes = jax.jvp(process.alpha_sigma, (t,), (jnp.ones_like(t),))
  for rate, slope in zip(process.rates(t), slopes, strict=True):
    np.testing.assert_allclose(rate, slope, rtol=1e-4, atol=1e-7)


@each_process
def test_solve_inverts_mix(process):
  x0, eps = drawn.normal(2, *SHAPE)
  t = times(process)
  alpha, sigma = process.alpha_sigma(t)
  x_t = p.mix((alpha, sigma), x0, eps)
  for prediction in predictions(process):
    out = p.mix(p.prediction_coefficients(prediction, process, t), x0, eps)
    found = p.x0_from_output(process, prediction, x_t, out, t)
    error = np.abs(found - x0).max((2, 3, 4))
    # x0 is known to the rounding of x_t and F: a few ulp of what is divided by det.
    a, b = p.prediction_coefficients(prediction, process, t)
    det = np.abs(p.determinant(prediction, process, t))
    terms = np.abs(b) * (alpha + sigma) + sigma * (np.abs(a) + np.abs(b))
    bound = 3e-6 * (1.0 + terms / det)
    assert np.isfinite(found).all() and (error < bound).all(), prediction
    if prediction == "x0":
      np.testing.assert_array_equal(found, x0)


@each_process
def test_solve_is_well_conditioned_unless_alpha_vanishes(process):
  """An error of x0 is at most 1000 times that of F, in units of F.

  Only eps is worse, where nothing but noise is left.
  """
  t = times(process)
  _, sigma = process.alpha_sigma(t)
  for prediction in predictions(process):
    unit = np.hypot(*p.prediction_coefficients(prediction, process, t))
    gain = np.abs(unit * sigma / p.determinant(prediction, process, t))
    limit = 2e5 if prediction == "eps" else 1000
    assert np.isfinite(gain).all() and (gain <= limit).all(), prediction


@each_process
def test_eps_and_x0_determine_each_other(process):
  x0, eps = drawn.normal(2, *SHAPE, seed=1)
  t = times(process)
  x_t = p.mix(process.alpha_sigma(t), x0, eps)
  found = p.eps_from_x0(process, x_t, x0, t)
  assert np.isfinite(found).all()
  _, sigma = process.alpha_sigma(t)
  clear = np.asarray(sigma > 1e-2)  # below, x_t rounds the noise away
  np.testing.assert_allclose(found[clear], eps[clear], atol=1e-3)


@each_process
def test_the_network_sees_finite_times_that_rise(process):
  t = process.t_max * jnp.linspace(0.01, 1.0, 64).reshape(1, 64)
  x_t = jnp.ones((1, 64, 1, 1, 1))
  x, seen = process.network_inputs(x_t, t)
  assert x.shape == x_t.shape and seen.shape == t.shape
  assert np.isfinite(x).all() and (np.diff(seen) > 0).all()
  x, seen = process.network_inputs(x_t, 0.0 * t)
  assert np.isfinite(x).all() and np.isfinite(seen).all()


@each_process
def test_gradients_are_finite_at_every_time(process):
  x0, eps = drawn.normal(2, *SHAPE, seed=2)
  t = times(process)

  def total(x0, scale):
    x_t = p.mix(process.alpha_sigma(t), x0, eps)
    loss = 0.0
    for prediction in predictions(process):
      out = scale * p.mix(p.prediction_coefficients(prediction, process, t), x0, eps)
      loss += p.x0_from_output(process, prediction, x_t, out, t).sum()
    return loss + p.eps_from_x0(process, x_t, scale * x0, t).sum()

  grads = jax.jit(jax.grad(total, argnums=(0, 1)))(x0, 0.9)
  assert all(np.isfinite(g).all() for g in grads)
  assert np.abs(grads[0]).max() > 0
