"""Ancestral sampling, DDPM's own: https://arxiv.org/abs/2006.11239 algorithm 2.

  x_s ~ N(mean of q(x_s | x_t, x0), var)

with the variance that the network learned, where it gives one, else the posterior's
("fixed small"). Then it is DDIM with eta = 1.
"""

import jax.numpy as jnp

from vdm_jax.diffusion import process as p
from vdm_jax.diffusion import variance
from vdm_jax.diffusion.samplers import loop


def ancestral(denoise, process, x, ts, cond, key):
  """Returns x0 [B, T, H, W, C], if `ts` ends at 0."""

  def step(x, t, t_next, key):
    estimate = denoise(x, t, cond)
    mean = variance.posterior_mean(process, x, estimate.x0, t, t_next)
    log_var = variance.log_variance(process, estimate.fraction, t, t_next)
    x_next = mean + jnp.exp(0.5 * log_var) * loop.noise(key, x.shape)
    return jnp.where(p.expand(t_next) > 0.0, x_next, estimate.x0)

  return loop.run(step, x, ts, key)
