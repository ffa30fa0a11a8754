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


def errors(sampler, process, start, stop, steps):
  """The error at `stop` for each number of steps."""
  u = jnp.linspace(-2.0, 2.0, 9).reshape(1, 1, 3, 3, 1)
  center, spread = standing(process, start)
  x = center + spread * u
  center, spread = standing(process, stop)

  def denoise(x_t, t, cond):
    alpha, sigma = (p.expand(c) for c in process.alpha_sigma(t))
    total = alpha**2 * STD**2 + sigma**2
    return d.Denoised((alpha * STD**2 * x_t + sigma**2 * MEAN) / total)

  @jax.jit
  def run(x):
    grids = [jnp.linspace(start, stop, n + 1) for n in steps]
    key = jax.random.key(0)
    return jnp.stack([sampler(denoise, process, x, ts, None, key) for ts in grids])

  return np.abs(run(x) - (center + spread * u)).max((1, 2, 3, 4, 5))


@pytest.mark.parametrize("name", suite.choose(SPANS, "flow"))
@pytest.mark.parametrize(
  ("sampler", "low", "high"),
  [
    (euler.euler, 0.9, 1.1),
    (ddim.ddim, 0.9, 1.1),
    (heun.heun, 1.9, 2.1),
    (functools.partial(dpm_solver.dpm_solver, order=1), 0.9, 1.1),
    (dpm_solver.dpm_solver, 1.8, 2.2),
    (functools.partial(dpm_solver.dpm_solver, rule="heun"), 1.9, 2.3),
    (functools.partial(unipc.unipc, order=1), 1.9, 2.1),
    (unipc.unipc, 2.7, 3.1),
    (functools.partial(unipc.unipc, kind="bh1"), 2.8, 3.1),
    (functools.partial(unipc.unipc, order=3), 3.5, 6.0),
  ],
)
def test_solvers_have_their_order(sampler, low, high, name):
  """They come to it with more steps, where float32 no longer sees the error."""
  with jax.enable_x64(True):
    error = errors(sampler, *SPANS[name], steps=(128, 256))
  slope = np.log2(error[0] / error[1])
  assert low < slope < high and error[1] < 0.02, slope


def test_the_third_order_has_less_error_though_it_starts_as_the_first():
  with jax.enable_x64(True):
    for name in suite.choose(SPANS, "flow"):
      second, third = (
        errors(functools.partial(dpm_solver.dpm_solver, order=n), *SPANS[name], (128,))
        for n in (2, 3)
      )
      assert third < 0.6 * second


def test_last_steps_may_be_of_lower_order():
  """Two steps of which the last is of first order are a step of order 1 after all."""
  process, start, stop = SPANS["flow"]
  run = lambda sampler, **k: errors(
    functools.partial(sampler, **k), process, start, stop, (2, 3)
  )
  for sampler in (dpm_solver.dpm_solver, unipc.unipc):
    first, capped, second = (
      run(sampler, order=1),
      run(sampler, final_orders=(1,)),
      run(sampler),
    )
    np.testing.assert_allclose(capped[0], first[0], rtol=1e-5)
    assert capped[1] != first[1] and (capped != second).all()
    np.testing.assert_array_equal(run(sampler, final_orders=(1, 1, 1)), first)


def test_wrong_orders_and_rules_are_refused():
  x = jnp.zeros((1, 1, 1, 1, 1))
  args = (None, p.Flow(), x, jnp.array([0.9, 0.1]), None, None)
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
  with jax.enable_x64(True):
    for x in (-3.0, -0.5001, -0.4999, -1e-6, 1e-3, 2.0):
      for order in (2, 3, 4):
        terms, expected = 1.0, 0.0
        for k in range(1, 60):
          terms /= k
          expected += terms * x ** (k - order) * (k >= order)
        np.testing.assert_allclose(dpm_solver.phi(x, order), expected, rtol=1e-9)
