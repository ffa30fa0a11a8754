"""The error of a solver falls as fast as its order says, on an exact solution.

For data N(m, s^2) the probability flow keeps (x - alpha m) / r, where
r = sqrt(alpha^2 s^2 + sigma^2).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support import suite
from vdm_jax.diffusion import denoise as d
from vdm_jax.diffusion import process as p
from vdm_jax.diffusion.samplers import ddim, dpm_solver, euler, heun, unipc

MEAN, STD = 1.5, 0.5
# From a time that is noisy to one that is not yet clean: what lies between is smooth.
SPANS = {
  "cosine": (p.Cosine(), 0.9, 0.2),
  "flow": (p.Flow(), 0.9, 0.2),
  "edm": (p.EDM(), 3.0, 0.3),
}


def standing(process, t):
  """alpha m and sqrt(alpha^2 s^2 + sigma^2) at time t."""
  alpha, sigma = process.alpha_sigma(jnp.full((1, 1), t))
  return alpha * MEAN, jnp.sqrt(alpha**2 * STD**2 + sigma**2)


@functools.cache
def errors(sampler, name, steps=(128, 256), **options):
  """The error at the end of a span for each number of steps."""
  process, start, stop = SPANS[name]
  u = np.linspace(-2.0, 2.0, 9).reshape(1, 1, 3, 3, 1)

  def denoise(x_t, t, cond):
    alpha, sigma = (p.expand(c) for c in process.alpha_sigma(t))
    total = alpha**2 * STD**2 + sigma**2
    return d.Denoised((alpha * STD**2 * x_t + sigma**2 * MEAN) / total)

  @jax.jit
  def run(ts):
    center, spread = standing(process, start)
    x, key = center + spread * u, jax.random.key(0)
    out = sampler(denoise, process, x, ts, None, key, **options)
    center, spread = standing(process, stop)
    return jnp.abs(out - (center + spread * u)).max()

  def grid(n):  # the shorter ones wait at the end
    return np.pad(np.linspace(start, stop, n + 1), (0, max(steps) - n), mode="edge")

  return np.array([run(grid(n)) for n in steps])


# First steps are of first order, and recorded trajectories of diffusers' Euler, DPM and
# UniPC of third order are in the quick suite.
CASES = {
  "euler": (euler.euler, {}, 0.9, 1.1),
  "ddim": (ddim.ddim, {}, 0.9, 1.1),
  "heun": (heun.heun, {}, 1.9, 2.1),
  "dpm 1": (dpm_solver.dpm_solver, dict(order=1), 0.9, 1.1),
  "dpm 2": (dpm_solver.dpm_solver, {}, 1.8, 2.2),
  "dpm, heun": (dpm_solver.dpm_solver, dict(rule="heun"), 1.9, 2.3),
  "unipc 1": (unipc.unipc, dict(order=1), 1.9, 2.1),
  "unipc 2": (unipc.unipc, {}, 2.7, 3.1),
  "unipc, bh1": (unipc.unipc, dict(kind="bh1"), 2.8, 3.1),
  "unipc 3": (unipc.unipc, dict(order=3), 3.5, 6.0),
}
QUICK = "heun", "dpm 2", "dpm, heun", "unipc 2", "unipc, bh1"


@pytest.mark.parametrize("name", suite.choose(SPANS, "flow"))
@pytest.mark.parametrize("case", suite.choose(CASES, *QUICK))
def test_solvers_have_their_order(case, name):
  """They come to it with more steps, where float32 no longer sees the error."""
  sampler, options, low, high = CASES[case]
  with jax.enable_x64(True):
    error = errors(sampler, name, **options)
  slope = np.log2(error[0] / error[1])
  assert low < slope < high and error[1] < 0.02, slope


@pytest.mark.parametrize("name", suite.choose(SPANS, "flow"))
def test_the_third_order_has_less_error_though_it_starts_as_the_first(name):
  with jax.enable_x64(True):
    second = errors(dpm_solver.dpm_solver, name)
    third = errors(dpm_solver.dpm_solver, name, order=3)
  assert third[0] < 0.6 * second[0]


# Wan's recorded trajectory has UniPC's.
@pytest.mark.parametrize(
  "sampler", [dpm_solver.dpm_solver, *suite.only_complete(unipc.unipc)]
)
def test_last_steps_may_be_of_lower_order(sampler):
  """Two steps of which the last is of first order are a step of order 1 after all."""
  run = lambda **options: errors(sampler, "flow", (2, 3), **options)
  first, capped, second = run(order=1), run(final_orders=(1,)), run()
  np.testing.assert_allclose(capped[0], first[0], rtol=1e-5)
  assert capped[1] != first[1] and (capped != second).all()
  np.testing.assert_array_equal(run(final_orders=(1, 1, 1)), first)


def test_wrong_orders_and_rules_are_refused():
  x = np.zeros((1, 1, 1, 1, 1))
  args = (None, p.Flow(), x, np.array([0.9, 0.1]), None, None)
  for sampler, rule in (
    (dpm_solver.dpm_solver, "rule"),
    (dpm_solver.dpm_solver_sde, "rule"),
    (unipc.unipc, "kind"),
  ):
    with pytest.raises(ValueError, match="order=4; expected 1, 2 or 3"):
      sampler(*args, order=4)
    with pytest.raises(ValueError, match=f"{rule}='tea'; expected one of"):
      sampler(*args, **{rule: "tea"})


def test_phi_is_exact_on_both_sides_of_its_series():
  x = np.array([-3.0, -0.5001, -0.4999, -1e-6, 1e-3, 2.0])
  with jax.enable_x64(True):
    found = jax.jit(lambda x: [dpm_solver.phi(x, order) for order in (2, 3, 4)])(x)
  for order, out in zip((2, 3, 4), found, strict=True):
    terms, expected = 1.0, 0.0
    for k in range(1, 60):
      terms /= k
      expected += terms * x ** float(k - order) * (k >= order)
    np.testing.assert_allclose(out, expected, rtol=1e-9)
