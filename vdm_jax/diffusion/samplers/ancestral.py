"""Ancestral sampling, DDPM's own: https://arxiv.org/abs/2006.11239 algorithm 2.

x_s ~ N(mean of q(x_s | x_t, x0), var); with the posterior's var, DDIM with eta = 1.
"""

import jax.numpy as jnp

from vdm_jax.diffusion import process as p
from vdm_jax.diffusion import variance
from vdm_jax.diffusion.samplers import loop


def ancestral(denoise, process, x, ts, cond, key, *, fraction=None):
  """DDPM's ancestral sampler: x0 [B, T, H, W, C] from noise, if the times end at 0.

  Args:
    denoise: (x_t, t [B, T], cond) -> Denoised, with x0 and maybe a learned variance.
    process: forward process, which gives alpha and sigma of t.
    x, ts: noise [B, T, H, W, C] at the first of falling times, [S + 1] or [S + 1, T].
    cond, key: Conditioning for `denoise`; PRNG key of the noise.
    fraction: of the variance, from the posterior's (0, "fixed small") to beta (1,
      "fixed large"); None: the network's, or 0.
  """

  def step(denoise, x, t, t_next, key):
    estimate = denoise(x, t, cond)
    at = estimate.variance_fraction if fraction is None else fraction * jnp.ones_like(x)
    mean = variance.posterior_mean(process, x, estimate.x0, t, t_next)
    ends = p.expand(t_next) <= 0.0
    std = jnp.exp(0.5 * variance.log_variance(process, at, t, t_next))
    mean, std = jnp.where(ends, estimate.x0, mean), jnp.where(ends, 0.0, std)
    return mean + std * loop.noise_by_frame(key, x.shape)

  return loop.run_steps(step, denoise, x, ts, key)
