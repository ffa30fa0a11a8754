"""Every process, held to the contract: a new one adds a line to PROCESSES."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support import drawn, suite
from vdm_jax.diffusion import process as p
from vdm_jax.diffusion import signal_scale
from vdm_jax.pretrained.schedulers import processes

RATIOS = tuple(np.geomspace(0.01, 150.0, 100))

PROCESSES = {
  "ddpm-linear": p.DDPM(),
  "ddpm-scaled-linear": p.DDPM(schedule="scaled_linear"),
  "ddpm-squaredcos": p.DDPM(schedule="squaredcos"),
  "signal-scale": signal_scale.SignalScaledProcess(p.DDPM(schedule="scaled_linear")),
  "cosine": p.Cosine(),
  "flow": p.Flow(),
  "edm": p.EDM(),
  "sigma-table": processes.SigmaTableProcess(RATIOS, t_max=150.0, log_index=True),
}
SHAPE = (2, 8, 3, 2, 4)
U = np.array([0.0, 1e-7, 1e-4, 0.003, 0.2, 0.5, 0.9, 1.0])  # of t_max


# DDPM's other tables are compared with the originals' in diffusion/test_process.py.
OTHERS = "signal-scale", "cosine", "flow", "edm", "sigma-table"


@pytest.fixture(scope="module", params=suite.choose(PROCESSES, "ddpm-linear", *OTHERS))
def process(request):
  return PROCESSES[request.param]


def predictions(process):
  return [k for k in p.PREDICTIONS if k != "edm" or hasattr(process, "sigma_data")]


@pytest.fixture(scope="module")
def found(process):
  """At times [2, 8] close to 0, in the middle and t_max, unlike in both rows.

  {"t", "data", "noise", "scales": (alpha, sigma), "eps found": from x_t and x0, and of
  each prediction (its coefficients, determinant, x0 from its output)}.
  """
  t = np.float32(process.t_max * np.stack([U, U[::-1]]))

  @jax.jit
  def run(x0, eps, t):
    scales = process.alpha_sigma(t)
    x_t = p.mix(scales, x0, eps)
    out = dict(t=t, data=x0, noise=eps, scales=scales)
    out["eps found"] = p.eps_from_x0(process, x_t, x0, t)
    for prediction in predictions(process):
      row = p.prediction_coefficients(prediction, process, t)
      back = p.x0_from_output(process, prediction, x_t, p.mix(row, x0, eps), t)
      out[prediction] = row, p.determinant(prediction, process, t), back
    return out

  return jax.tree.map(np.asarray, run(*drawn.normal(2, *SHAPE), t))


def test_a_process_runs_from_the_data_to_the_noise(process):
  t = process.t_max * np.linspace(0.0, 1.0, 1001, dtype=np.float32)[None]
  alpha, sigma = map(np.asarray, jax.jit(process.alpha_sigma)(t))
  assert alpha.shape == sigma.shape == t.shape
  assert alpha.dtype == sigma.dtype == np.float32
  assert (np.diff(sigma) > 0).all() and (np.diff(alpha) <= 0).all()
  assert (alpha >= p.FLOOR).all() and (sigma >= p.FLOOR).all()
  assert alpha[0, 0] == 1.0 and sigma[0, 0] == np.float32(p.FLOOR)
  assert sigma[0, -1] / alpha[0, -1] > 10  # nothing but noise is left


def test_rates_are_the_derivatives(process):
  # Off the knots of the tables, off the floors.
  t = [[0.00153, 0.0517, 0.3331, 0.5003, 0.8007, 0.9991]]
  slopes = lambda t: jax.jvp(process.alpha_sigma, (t,), (jnp.ones_like(t),))[1]
  both = jax.jit(lambda t: (process.rates(t), slopes(t)))
  for rate, slope in zip(*both(np.float32(process.t_max) * np.float32(t)), strict=True):
    np.testing.assert_allclose(rate, slope, rtol=1e-4, atol=1e-7)


def test_solve_inverts_mix(process, found):
  alpha, sigma = found["scales"]
  for prediction in predictions(process):
    (a, b), det, x0 = found[prediction]
    error = np.abs(x0 - found["data"]).max((2, 3, 4))
    # x0 is known to the rounding of x_t and F: a few ulp of what is divided by det.
    terms = np.abs(b) * (alpha + sigma) + sigma * (np.abs(a) + np.abs(b))
    bound = 3e-6 * (1.0 + terms / np.abs(det))
    assert np.isfinite(x0).all() and (error < bound).all(), prediction
    if prediction == "x0":
      np.testing.assert_array_equal(x0, found["data"])


def test_solve_is_well_conditioned_unless_alpha_vanishes(process, found):
  """An error of x0 is at most 1000 times that of F, in units of F.

  Only eps is worse, where nothing but noise is left.
  """
  for prediction in predictions(process):
    row, det, _ = found[prediction]
    gain = np.abs(np.hypot(*row) * found["scales"][1] / det)
    limit = 2e5 if prediction == "eps" else 1000
    assert np.isfinite(gain).all() and (gain <= limit).all(), prediction


def test_eps_and_x0_determine_each_other(found):
  eps = found["eps found"]
  assert np.isfinite(eps).all()
  clear = found["scales"][1] > 1e-2  # below, x_t rounds the noise away
  np.testing.assert_allclose(eps[clear], found["noise"][clear], atol=1e-3)


def test_the_network_sees_finite_times_that_rise(process):
  t = process.t_max * np.linspace(0.01, 1.0, 64, dtype=np.float32).reshape(1, 64)
  x_t, run = np.ones((1, 64, 1, 1, 1), np.float32), jax.jit(process.network_inputs)
  x, seen = run(x_t, t)
  assert x.shape == x_t.shape and seen.shape == t.shape
  assert np.isfinite(x).all() and (np.diff(seen) > 0).all()
  x, seen = run(x_t, 0.0 * t)
  assert np.isfinite(x).all() and np.isfinite(seen).all()


def test_gradients_are_finite_at_every_time(process, found):
  def total(x0, scale):
    x_t = p.mix(process.alpha_sigma(found["t"]), x0, found["noise"])
    loss = 0.0
    for prediction in predictions(process):
      row = p.prediction_coefficients(prediction, process, found["t"])
      out = scale * p.mix(row, x0, found["noise"])
      loss += p.x0_from_output(process, prediction, x_t, out, found["t"]).sum()
    return loss + p.eps_from_x0(process, x_t, scale * x0, found["t"]).sum()

  grads = jax.jit(jax.grad(total, argnums=(0, 1)))(found["data"], 0.9)
  assert all(np.isfinite(g).all() for g in grads)
  assert np.abs(grads[0]).max() > 0
