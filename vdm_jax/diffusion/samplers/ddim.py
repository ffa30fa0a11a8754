"""DDIM, https://arxiv.org/abs/2010.02502, and its exact inversion.

  x_s = alpha_s x0 + sqrt(sigma_s^2 - var) eps + sqrt(var) noise

eta = 1 is ancestral sampling, DDPM's and Euler's "Euler ancestral", which is the same
step written in x / alpha. On the flow process eta = 0 is the Euler method.
"""

import jax
import jax.numpy as jnp
import numpy as np

from vdm_jax.diffusion import process as p
from vdm_jax.diffusion import variance
from vdm_jax.diffusion.samplers import loop


def ddim(denoise, process, x, ts, cond, key, *, eta=0.0):
  """The DDIM sampler: x0 [B, T, H, W, C] from noise, if the times end at 0.

  Args:
    denoise: (x_t, t [B, T], cond) -> Denoised, with field x0.
    process: forward process, which gives alpha and sigma of t.
    x, ts: noise [B, T, H, W, C] at the first of falling times, [S + 1] or [S + 1, T].
    cond, key: Conditioning for `denoise`; PRNG key of the noise.
    eta: 0 is deterministic, 1 has the noise of DDPM.
  """

  def step(denoise, x, t, t_next, key):
    x0 = denoise(x, t, cond).x0
    eps = p.eps_from_x0(process, x, x0, t)
    return ddim_step(process, x0, eps, t, t_next, key, eta)

  return loop.run_steps(step, denoise, x, ts, key)


def ddim_step(process, x0, eps, t, t_next, key, eta):
  """x [B, T, H, W, C] at time t_next after a DDIM step from t; x0 where t_next is 0.

  Args:
    process: forward process, which gives alpha and sigma of t.
    x0, eps: [B, T, H, W, C] estimates of the data and of the noise at t.
    t, t_next: times [B, T].
    key: PRNG key of the step's noise, which is drawn unless eta is 0.
    eta: 0 is deterministic, 1 has the noise of DDPM.
  """
  alpha_next, sigma_next = process.alpha_sigma(t_next)
  if eta == 0.0:
    x_next = p.mix((alpha_next, sigma_next), x0, eps)
  else:
    var = eta**2 * variance.ddim_variance(process, t, t_next)
    kept = jnp.sqrt(jnp.maximum(sigma_next**2 - var, 0.0))
    x_next = p.mix((alpha_next, kept), x0, eps)
    x_next += p.expand(jnp.sqrt(var)) * loop.noise_by_frame(key, x0.shape)
  return jnp.where(p.expand(t_next) > 0.0, x_next, x0)


def euler_ancestral(denoise, process, x, ts, cond, key, *, eta=1.0):
  """k-diffusion's Euler ancestral sampler: x0 [B, T, H, W, C], if the times end at 0.

  In y = x / alpha and s = sigma / alpha: up^2 = eta^2 s_next^2 (1 - s_next^2 / s^2),
  down^2 = s_next^2 - up^2, y_next = y + (down - s) eps + up noise, which is `ddim`.

  Args:
    denoise: (x_t, t [B, T], cond) -> Denoised, with field x0.
    process: forward process, which gives alpha and sigma of t.
    x, ts: noise [B, T, H, W, C] at the first of falling times, [S + 1] or [S + 1, T].
    cond, key: Conditioning for `denoise`; PRNG key of the noise.
    eta: 0 is deterministic (Euler), 1 is k-diffusion's default.
  """
  return ddim(denoise, process, x, ts, cond, key, eta=eta)


def invert(denoise, process, x, ts, cond, key=None, *, iterations=20):
  """DDIM inversion: the noise [B, T, H, W, C] from which deterministic DDIM gives x.

  A step of DDIM from t to s is undone by solving x_t = a x_s + b eps(x_t, t) for x_t,
  by `iterations` of the fixed point. One iteration takes eps at x_s: the inversion of
  https://arxiv.org/abs/2105.05233, which is wrong by O(step).

  Args:
    denoise: (x_t, t [B, T], cond) -> Denoised, with field x0.
    process: forward process, which gives alpha and sigma of t.
    x: [B, T, H, W, C] clean video.
    ts: the falling times [S + 1] or [S + 1, T] of DDIM; the noise is that of ts[0].
    cond, key: Conditioning for `denoise`; `key` is not used.
  """
  if iterations < 1:
    raise ValueError(f"iterations={iterations}; inversion takes at least one.")

  def step(_, x, s, t, key):
    del key  # deterministic
    alpha, sigma = process.alpha_sigma(t)
    alpha_s, sigma_s = process.alpha_sigma(s)
    # The last step of DDIM returns x0 itself: no noise is left at time 0.
    alpha_s, sigma_s = jnp.where(s > 0, alpha_s, 1.0), jnp.where(s > 0, sigma_s, 0.0)
    a = alpha / alpha_s
    coeffs = a, sigma - a * sigma_s

    def improve(_, x_t):
      x0 = denoise(x_t, t, cond).x0
      return p.mix(coeffs, x, p.eps_from_x0(process, x_t, x0, t))

    return jax.lax.fori_loop(0, iterations, improve, x)

  return loop.run_steps(step, denoise, x, np.flip(ts, axis=0), jax.random.key(0))
