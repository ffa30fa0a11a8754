"""UniPC of order 2, https://arxiv.org/abs/2302.04867, on estimates of x0.

A predictor from the last two estimates, as in DPM-Solver++ 2M; then, when the network
is called at the predicted point, the step that led there is taken again with that
estimate as a third: a corrector that costs no call, and a third order.

  x_s = (sigma_s / sigma_t) x_t + alpha_s (1 - e^-h) (x0_t + sum_i rho_i D_i)

h is the step in lambda = log(alpha / sigma), D_i = (x0_i - x0_t) / r_i, r_i the
distance of estimate i from t in units of h, and rho solves sum_i rho_i r_i^(k-1) = b_k
for the paper's B_2(h) = e^-h - 1. Each frame has its own history and starts at first
order.
"""

import jax.numpy as jnp

from vdm_jax.diffusion import process as p
from vdm_jax.diffusion.samplers import dpm_solver, loop


def unipc(denoise, process, x, ts, cond, key):
  """Returns x0 [B, T, H, W, C], if `ts` ends at 0."""

  def step(x, t, t_next, key, memory):
    del key  # deterministic
    x_1, x0_1, x0_2, t_1, t_2 = memory  # of one and two steps ago
    has_1, has_2 = t_1 > t, t_2 > t
    lambda_1 = dpm_solver.log_snr(process, jnp.where(has_1, t_1, t))
    lambda_2 = dpm_solver.log_snr(process, jnp.where(has_2, t_2, t))
    here, there = (dpm_solver.log_snr(process, u) for u in (t, t_next))
    x0 = denoise(x, t, cond).x0

    h = here - lambda_1
    r = jnp.where(has_2, (lambda_2 - lambda_1) / jnp.where(has_1, h, 1.0), -1.0)
    rho_2, rho = _corrector(jnp.where(has_1, h, 1.0), r)
    rho_2, rho = jnp.where(has_2, rho_2 / r, 0.0), jnp.where(has_2, rho, 0.5)
    target = x0_1 + p.mix((rho_2, rho), x0_2 - x0_1, x0 - x0_1)
    corrected = _exact(process, x_1, target, jnp.where(has_1, t_1, t), t)
    x = jnp.where(p.expand(has_1), corrected, x)

    weight = jnp.where(has_1, 0.5 * (there - here) / jnp.where(has_1, h, 1.0), 0.0)
    x_next = _exact(process, x, x0 + p.expand(weight) * (x0 - x0_1), t, t_next)
    x_next = jnp.where(p.expand(t_next) > 0.0, x_next, x0)
    return x_next, (x, x0, x0_1, t, t_1)

  nothing = jnp.zeros_like(x)
  never = jnp.full(x.shape[:2], -1.0, loop.rows(ts, x.shape[1]).dtype)
  memory = nothing, nothing, nothing, never, never
  return loop.run(step, x, ts, key, memory=memory)


def _exact(process, x, x0, t, t_next):
  """The probability flow from t to t_next, if x0 stays what it is."""
  h = dpm_solver.log_snr(process, t_next) - dpm_solver.log_snr(process, t)
  _, sigma = process.alpha_sigma(t)
  alpha_next, sigma_next = process.alpha_sigma(t_next)
  return p.mix((-alpha_next * jnp.expm1(-h), sigma_next / sigma), x0, x)


def _corrector(h, r):
  """rho of the estimate at distance r (< 0) and of the one at distance 1."""
  first = -h / jnp.expm1(-h)
  b_1, b_2 = first * _phi(-h, 2), 2.0 * first * _phi(-h, 3)
  rho_r = (b_1 - b_2) / (1.0 - r)
  return rho_r, b_1 - rho_r


def _phi(x, order):
  """(e^x - its Taylor polynomial) / x^order: 1 / order! + x / (order + 1)! + ..."""
  factorial = {2: 2.0, 3: 6.0}[order]
  series, term = 0.0, 1.0 / factorial
  for k in range(1, 9):
    series, term = series + term, term * x / (order + k)
  small = jnp.abs(x) < 0.5
  y = jnp.where(small, 1.0, x)
  direct = (jnp.expm1(y) / y - 1.0) / y
  direct = direct if order == 2 else (direct - 0.5) / y
  return jnp.where(small, series, direct)
