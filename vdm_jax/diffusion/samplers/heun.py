"""Heun's second-order method, https://arxiv.org/abs/2206.00364 algorithm 1.

An Euler step, then the mean of the slopes at both its ends. The step to t = 0 is the
Euler step's x0, for dx/dt has no end there.
"""

import jax.numpy as jnp

from vdm_jax.diffusion import process as p
from vdm_jax.diffusion.samplers import euler, loop


def heun(denoise, process, x, ts, cond, key):
  """Heun's method for the probability flow ODE: x0 [B, T, H, W, C], if times end at 0.

  Second order, two calls of the denoiser in a step.

  Args:
    denoise: (x_t, t [B, T], cond) -> Denoised, with field x0.
    process: forward process, which gives alpha and sigma of t.
    x, ts: noise [B, T, H, W, C] at the first of falling times, [S + 1] or [S + 1, T].
    cond, key: Conditioning for `denoise`; `key` is not used.
  """

  def step(denoise, x, t, t_next, key):
    del key  # deterministic
    dt = p.expand(t_next - t)
    ends = p.expand(t_next) > 0.0
    x0 = denoise(x, t, cond).x0
    first = euler.ode_derivative(process, x, x0, t)
    guess = jnp.where(ends, x + dt * first, x0)
    second = euler.ode_derivative(
      process, guess, denoise(guess, t_next, cond).x0, t_next
    )
    return jnp.where(ends, x + dt * 0.5 * (first + second), x0)

  return loop.run_steps(step, denoise, x, ts, key, calls=2)
