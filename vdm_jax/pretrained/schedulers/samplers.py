"""DDPM, DDIM and DPM-Solver as diffusers' classes step, where they differ from ours."""

import jax
import jax.numpy as jnp
import numpy as np

from vdm_jax.diffusion import process as p
from vdm_jax.diffusion import variance
from vdm_jax.diffusion.samplers import ddim as ddim_lib
from vdm_jax.diffusion.samplers import loop

# The least log variance: there is none at the data, and it has a logarithm.
LEAST = np.log(1e-20)
# Of the newest estimates first, by how many there were before.
ADAMS_BASHFORTH = np.float32(
  [
    [1, 0, 0, 0],
    [3 / 2, -1 / 2, 0, 0],
    [23 / 12, -16 / 12, 5 / 12, 0],
    [55 / 24, -59 / 24, 37 / 24, -9 / 24],
  ]
)


def ddpm(denoise, process, x, ts, cond, key, *, fraction=None):
  """Samples as DDPMScheduler does: x0 [B, T, H, W, C], if the times `ts` end at 0.

  Ancestral sampling, but a last step longer than 1 gets its noise, too.

  Args:
    denoise: (x, t [B, T], cond) -> Denoised, with the estimate of x0.
    process: the noise schedule, alpha and sigma of a time.
    x: [B, T, H, W, C], noise at the time ts[0].
    ts: [S + 1] or [S + 1, T], falling times, the same or one for each frame.
    cond, key: the network's Conditioning; PRNG key of the steps' noise.
    fraction: where the log variance is between the posterior's (0) and beta's (1);
      None: what the network learned.
  """

  def step(denoise, x, t, t_next, key):
    estimate = denoise(x, t, cond)
    at = estimate.variance_fraction if fraction is None else fraction * jnp.ones_like(x)
    mean = variance.posterior_mean(process, x, estimate.x0, t, t_next)
    std = jnp.exp(0.5 * variance.log_variance(process, at, t, t_next))
    beta = p.expand(
      jnp.log(variance.transition_scale_and_variance(process, t, t_next)[1])
    )
    at = 0.0 if at is None else at
    last = jnp.exp(0.5 * (at * beta + (1.0 - at) * LEAST))
    last = jnp.where(p.expand(t) > 1.0, last, 0.0)
    ends = p.expand(t_next) <= 0.0
    mean, std = jnp.where(ends, estimate.x0, mean), jnp.where(ends, last, std)
    return mean + std * loop.noise_by_frame(key, x.shape)

  return loop.run_steps(step, denoise, x, ts, key)


def ddim(
  denoise, process, x, ts, cond, key, *, eta=0.0, clip=None, train_steps=None, end=0.0
):
  """Samples as DDIMScheduler does: x0 [B, T, H, W, C], if the times `ts` end at 0.

  Args:
    denoise: (x, t [B, T], cond) -> Denoised, with the estimate of x0.
    process: the noise schedule, alpha and sigma of a time.
    x: [B, T, H, W, C], noise at the time ts[0].
    ts: [S + 1] or [S + 1, T], falling times, the same or one for each frame.
    cond, key: the network's Conditioning; PRNG key of the steps' noise.
    eta: 0 is deterministic, 1 ancestral sampling.
    clip: x0 -> x0, applied after eps was computed from the estimate; a wrapper such
      as `denoise.edit_x0` changes both.
    train_steps: where given, each of the S steps leads from t to t - train_steps // S,
      wherever the next one starts, and to `end` if that is less than 1; None: to the
      next time of `ts`.
    end: the time that diffusers calls index -1.
  """

  def step(denoise, x, t, t_next, key):
    t_next = _stride_end(t, t_next, train_steps, len(ts) - 1, end)
    x0 = denoise(x, t, cond).x0
    eps = p.eps_from_x0(process, x, x0, t)
    x0 = x0 if clip is None else clip(x0)
    return ddim_lib.ddim_step(process, x0, eps, t, t_next, key, eta)

  return loop.run_steps(step, denoise, x, ts, key)


def pndm(denoise, process, x, ts, cond, key, *, train_steps=None, end=0.0):
  """Samples as PNDMScheduler without its Runge-Kutta steps, PLMS: x0 [B, T, H, W, C].

  Steps of DDIM along Adams-Bashforth combinations of the last four eps; the first step
  is taken twice, along the mean of the eps at its ends.
  https://arxiv.org/abs/2202.09778.

  Args:
    denoise: (x, t [B, T], cond) -> Denoised, with the estimate of x0.
    process: the noise schedule, alpha and sigma of a time.
    x: [B, T, H, W, C], noise at the time ts[0].
    ts: [S + 1] or [S + 1, T], falling times, the same or one for each frame.
    cond, key: the network's Conditioning; `key` is not used.
    train_steps, end: as `ddim` has them.
  """

  def eps_at(denoise, x, t):
    return p.eps_from_x0(process, x, denoise(x, t, cond).x0, t)

  def move(x, eps, t, t_next):
    alpha, sigma = process.alpha_sigma(t)
    x0 = (x - p.expand(sigma) * eps) / p.expand(alpha)
    return ddim_lib.ddim_step(process, x0, eps, t, t_next, key, 0.0)

  def step(denoise, x, t, t_next, key, memory):
    del key
    past, count = memory
    eps = eps_at(denoise, x, t)
    last = jnp.concatenate([eps[:, :, None], past], axis=2)
    weights = jnp.asarray(ADAMS_BASHFORTH)[jnp.minimum(count, 3)]  # [B, T, 4]
    mean = jnp.einsum("btk,btk...->bt...", weights, last)
    stop = _stride_end(t, t_next, train_steps, len(ts) - 1, end)
    if len(ts) > 2:
      again = lambda: (eps + eps_at(denoise, move(x, eps, t, stop), t_next)) / 2
      first = (count == 0).all()
      mean = jax.lax.cond(first, again, lambda: mean)
      if train_steps is not None:  # the second time a stride that ends at t_next
        t = jnp.where(first, t_next + train_steps // (len(ts) - 1), t)
        stop = jnp.where(first, t_next, stop)
    return move(x, mean, t, stop), (last[:, :, :3], count + 1)

  past = jnp.zeros((*x.shape[:2], 3, *x.shape[2:]))
  memory = past, jnp.zeros(x.shape[:2], int)
  return loop.run_steps(step, denoise, x, ts, key, memory)


def _stride_end(t, t_next, train_steps, num_steps, end):
  """Where a step from t leads: to t_next, or a stride of training steps further."""
  if train_steps is None:
    return t_next
  t_next = t - train_steps // num_steps
  return jnp.where(t_next >= 1.0, t_next, end)


def dpm_solver(
  denoise, process, x, ts, cond, key, *, solver, lower_order_final, final_orders
):
  """Samples as DPMSolverMultistepScheduler: x0 [B, T, H, W, C], if `ts` ends at 0.

  Args:
    denoise: (x, t [B, T], cond) -> Denoised, with the estimate of x0.
    process: the noise schedule, alpha and sigma of a time.
    x: [B, T, H, W, C], noise at the time ts[0].
    ts: [S + 1] or [S + 1, T], falling times, the same or one for each frame.
    cond, key: the network's Conditioning; PRNG key of the steps' noise.
    solver: dpm_solver or dpm_solver_sde of diffusion/samplers/dpm_solver.py, with its
      order and rule.
    lower_order_final: whether the last two steps have order 2 and 1 if there are fewer
      than 15.
    final_orders: otherwise the highest orders of the last steps, the last first.
  """
  final_orders = (1, 2) if lower_order_final and len(ts) - 1 < 15 else final_orders
  return solver(denoise, process, x, ts, cond, key, final_orders=final_orders)
