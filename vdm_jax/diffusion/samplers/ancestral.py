"""Ancestral sampling, DDPM's own: https://arxiv.org/abs/2006.11239 algorithm 2.

  x_s ~ N(mean of q(x_s | x_t, x0), var)

with the variance that the network learned, where it gives one, else the posterior's
("fixed small"). Then it is DDIM with eta = 1.
"""

import jax.numpy as jnp

from vdm_jax.diffusion import process as p
from vdm_jax.diffusion import variance
from vdm_jax.diffusion.samplers import loop


def ancestral(denoise, process, x, ts, cond, key, *, fraction=None):
  """Samples as DDPM: x0 [B, T, H, W, C], if the times `ts` end at 0.

  Args:
    fraction: of the variance, from the posterior's (0, "fixed small") to beta (1,
      "fixed large"), in place of the network's.
  """

  def step(denoise, x, t, t_next, key):
    estimate = denoise(x, t, cond)
    at = estimate.fraction if fraction is None else fraction * jnp.ones_like(x)
    mean = variance.posterior_mean(process, x, estimate.x0, t, t_next)
    ends = p.expand(t_next) <= 0.0
    std = jnp.exp(0.5 * variance.log_variance(process, at, t, t_next))
    mean, std = jnp.where(ends, estimate.x0, mean), jnp.where(ends, 0.0, std)
    return mean + std * loop.noise(key, x.shape)

  return loop.run_steps(step, denoise, x, ts, key)
