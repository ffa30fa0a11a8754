"""Ancestral sampling, DDPM's own: https://arxiv.org/abs/2006.11239 algorithm 2.

  x_s ~ N(mean of q(x_s | x_t, x0), var)

with the variance that the network learned, where it gives one, else the posterior's
("fixed small"). Then it is DDIM with eta = 1.
"""

import jax.numpy as jnp
import numpy as np

from vdm_jax.diffusion import process as p
from vdm_jax.diffusion import variance
from vdm_jax.diffusion.samplers import loop

# diffusers' least variance: there is none at the data, and it has a logarithm.
LEAST = np.log(1e-20)


def ancestral(denoise, process, x, ts, cond, key, *, fraction=None, noisy_end=False):
  """Returns x0 [B, T, H, W, C], if `ts` ends at 0.

  Args:
    fraction: of the way from the posterior's variance (0, "fixed small") to beta (1,
      "fixed large"), in place of what the network learned.
    noisy_end: a last step that is longer than 1 gets its noise too, as in diffusers.
  """

  def step(denoise, x, t, t_next, key):
    estimate = denoise(x, t, cond)
    at = estimate.fraction if fraction is None else fraction * jnp.ones_like(x)
    mean = variance.posterior_mean(process, x, estimate.x0, t, t_next)
    ends = p.expand(t_next) <= 0.0
    std = jnp.exp(0.5 * variance.log_variance(process, at, t, t_next))
    if noisy_end:
      high = p.expand(jnp.log(variance.forward(process, t, t_next)[1]))
      at = 0.0 if at is None else at
      last = jnp.exp(0.5 * (at * high + (1.0 - at) * LEAST))
      std = jnp.where(ends, jnp.where(p.expand(t) > 1.0, last, 0.0), std)
    else:
      std = jnp.where(ends, 0.0, std)
    return jnp.where(ends, estimate.x0, mean) + std * loop.noise(key, x.shape)

  return loop.run(step, denoise, x, ts, key)
