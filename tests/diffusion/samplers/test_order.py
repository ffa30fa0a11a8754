"""The error of a solver falls as fast as its order says, on an exact solution.

For data N(m, s^2) the probability flow keeps (x - alpha m) / r, where
r = sqrt(alpha^2 s^2 + sigma^2).
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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


def errors(sampler, process, start, stop, steps=(8, 16, 32)):
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


@pytest.mark.parametrize("name", SPANS)
@pytest.mark.parametrize(
  ("sampler", "order"),
  [
    (euler.euler, 1),
    (ddim.ddim, 1),
    (heun.heun, 2),
  ],
)
def test_solvers_have_their_order(sampler, order, name):
  error = errors(sampler, *SPANS[name])
  slopes = np.log2(error[:-1] / error[1:])
  np.testing.assert_allclose(slopes, order, atol=0.3)
  assert error[-1] < 0.1


@pytest.mark.parametrize("name", SPANS)
@pytest.mark.parametrize(
  ("sampler", "low", "high"),
  [(dpm_solver.dpm_solver, 1.8, 2.2), (unipc.unipc, 2.7, 3.1)],
)
def test_multistep_solvers_have_their_order(sampler, low, high, name):
  """They come to it with more steps, where float32 no longer sees the error."""
  with jax.enable_x64(True):
    error = errors(sampler, *SPANS[name], steps=(128, 256))
  slope = np.log2(error[0] / error[1])
  assert low < slope < high, slope
