"""DPM-Solver++ 2M, https://arxiv.org/abs/2211.01095, as an ODE and as an SDE.

In lambda = log(alpha / sigma), with a step h from t to s, x0 is extrapolated to the
middle of the step from this estimate and the one before it,

  D = x0 + (x0 - x0_before) h / (2 h_before)

and the rest of the equation is solved exactly: second order at one call a step. Each
frame has its own history; its first step is of first order, and so is its last.
"""

import jax.numpy as jnp

from vdm_jax.diffusion import process as p
from vdm_jax.diffusion.samplers import loop


def dpm_solver(denoise, process, x, ts, cond, key):
  """2M on the probability flow; returns x0 [B, T, H, W, C], if `ts` ends at 0.

  x_s = (sigma_s / sigma_t) x_t + alpha_s (1 - e^-h) D
  """

  def step(x, x0, middle, t, t_next, key):
    del x0, key
    h = log_snr(process, t_next) - log_snr(process, t)
    _, sigma = process.alpha_sigma(t)
    alpha_next, sigma_next = process.alpha_sigma(t_next)
    return p.mix((-alpha_next * jnp.expm1(-h), sigma_next / sigma), middle, x)

  return _two_step(step, denoise, process, x, ts, cond, key)


def dpm_solver_sde(denoise, process, x, ts, cond, key):
  """2M on the reverse SDE; returns x0 [B, T, H, W, C], if `ts` ends at 0.

  x_s = (sigma_s / sigma_t) e^-h x_t + alpha_s (1 - e^-2h) D
        + sigma_s sqrt(1 - e^-2h) noise
  """

  def step(x, x0, middle, t, t_next, key):
    del x0
    h = log_snr(process, t_next) - log_snr(process, t)
    _, sigma = process.alpha_sigma(t)
    alpha_next, sigma_next = process.alpha_sigma(t_next)
    fresh = -jnp.expm1(-2.0 * h)
    x_next = p.mix((alpha_next * fresh, sigma_next / sigma * jnp.exp(-h)), middle, x)
    return x_next + p.expand(sigma_next * jnp.sqrt(fresh)) * loop.noise(key, x.shape)

  return _two_step(step, denoise, process, x, ts, cond, key)


def log_snr(process, t):
  """lambda = log(alpha / sigma), half the log signal-to-noise ratio; [B, T]."""
  alpha, sigma = process.alpha_sigma(t)
  return jnp.log(alpha) - jnp.log(sigma)


def _two_step(step, denoise, process, x, ts, cond, key):
  """Runs `step` with x0 at the middle of each step, extrapolated from the last two."""

  def body(x, t, t_next, key, memory):
    before, t_before = memory
    x0 = denoise(x, t, cond).x0
    here = log_snr(process, t)
    h = log_snr(process, t_next) - here
    h_before = here - log_snr(process, jnp.maximum(t_before, t))
    known = t_before > t  # a frame's first step has nothing before it
    weight = jnp.where(known, 0.5 * h / jnp.where(known, h_before, 1.0), 0.0)
    middle = x0 + p.expand(weight) * (x0 - before)
    x_next = step(x, x0, middle, t, t_next, key)
    return jnp.where(p.expand(t_next) > 0.0, x_next, x0), (x0, t)

  nothing = (
    jnp.zeros_like(x),
    jnp.full(x.shape[:2], -1.0, loop.rows(ts, x.shape[1]).dtype),
  )
  return loop.run(body, x, ts, key, memory=nothing)
