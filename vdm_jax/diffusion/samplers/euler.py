"""Euler's method on the probability flow dx/dt = alpha' x0 + sigma' eps.

First order in the step of t. Equation 1 of https://arxiv.org/abs/2206.00364; on the
flow process dx/dt is the velocity itself.
"""

import jax.numpy as jnp

from vdm_jax.diffusion import process as p
from vdm_jax.diffusion.samplers import loop


def euler(denoise, process, x, ts, cond, key):
  """Euler's method for the probability flow ODE: x0 [B, T, H, W, C], if times end at 0.

  Args:
    denoise: (x_t, t [B, T], cond) -> Denoised, with field x0.
    process: forward process, which gives alpha and sigma of t.
    x, ts: noise [B, T, H, W, C] at the first of falling times, [S + 1] or [S + 1, T].
    cond, key: Conditioning for `denoise`; `key` is not used.
  """

  def step(denoise, x, t, t_next, key):
    del key  # deterministic
    x0 = denoise(x, t, cond).x0
    x_next = x + p.expand(t_next - t) * ode_derivative(process, x, x0, t)
    return jnp.where(p.expand(t_next) > 0.0, x_next, x0)

  return loop.run_steps(step, denoise, x, ts, key)


def ode_derivative(process, x, x0, t):
  """dx/dt [B, T, H, W, C] of the probability flow at x and t, if the data is x0."""
  return p.mix(process.rates(t), x0, p.eps_from_x0(process, x, x0, t))
