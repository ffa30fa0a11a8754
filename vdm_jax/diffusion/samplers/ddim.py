"""DDIM, https://arxiv.org/abs/2010.02502; eta = 1 is ancestral DDPM sampling.

  x_s = alpha_s x0 + sqrt(sigma_s^2 - var) eps + sqrt(var) noise

On the flow process eta = 0 is the Euler method.
"""

import jax.numpy as jnp

from vdm_jax.diffusion import process as p
from vdm_jax.diffusion.samplers import loop


def ddim(denoise, process, x, ts, cond, key, *, eta=0.0):
  """Returns x0 [B, T, H, W, C], if `ts` ends at 0."""

  def step(x, t, t_next, key):
    x0 = denoise(x, t, cond).x0
    eps = p.eps_from_x0(process, x, x0, t)
    alpha_next, sigma_next = process.alpha_sigma(t_next)
    if eta == 0.0:
      x_next = p.mix((alpha_next, sigma_next), x0, eps)
    else:
      var = eta**2 * posterior_variance(process, t, t_next)
      kept = jnp.sqrt(jnp.maximum(sigma_next**2 - var, 0.0))
      x_next = p.mix((alpha_next, kept), x0, eps)
      x_next += p.expand(jnp.sqrt(var)) * loop.noise(key, x.shape)
    return jnp.where(p.expand(t_next) > 0.0, x_next, x0)

  return loop.run(step, x, ts, key)


def posterior_variance(process, t, t_next):
  """Variance of q(x_next | x_t, x0), [B, T]: equation 16 with eta = 1."""
  alpha, sigma = process.alpha_sigma(t)
  alpha_next, sigma_next = process.alpha_sigma(t_next)
  ratio = alpha * sigma_next / (alpha_next * sigma)
  return sigma_next**2 * jnp.maximum(1.0 - ratio**2, 0.0)
