"""DDPM, DDIM and DPM-Solver as diffusers' classes step, where they differ from ours."""

import jax.numpy as jnp
import numpy as np

from vdm_jax.diffusion import process as p
from vdm_jax.diffusion import variance
from vdm_jax.diffusion.samplers import ddim as ddim_lib
from vdm_jax.diffusion.samplers import loop

# The least log variance: there is none at the data, and it has a logarithm.
LEAST = np.log(1e-20)


def ddpm(denoise, process, x, ts, cond, key, *, fraction=None):
  """DDPMScheduler: `ancestral`, but a last step longer than 1 gets its noise, too.

  Args:
    denoise, process, x, ts, cond, key: see samplers/loop.py; x [B, T, H, W, C].
    fraction: of the way from the posterior's variance (0) to beta (1), in the
      logarithm; None: what the network learned.

  Returns:
    x0 [B, T, H, W, C], if `ts` ends at 0.
  """

  def step(denoise, x, t, t_next, key):
    estimate = denoise(x, t, cond)
    part = estimate.fraction if fraction is None else fraction * jnp.ones_like(x)
    mean = variance.posterior_mean(process, x, estimate.x0, t, t_next)
    std = jnp.exp(0.5 * variance.log_variance(process, part, t, t_next))
    beta = p.expand(jnp.log(variance.forward_step(process, t, t_next)[1]))
    part = 0.0 if part is None else part
    last = jnp.exp(0.5 * (part * beta + (1.0 - part) * LEAST))
    last = jnp.where(p.expand(t) > 1.0, last, 0.0)
    ends = p.expand(t_next) <= 0.0
    mean, std = jnp.where(ends, estimate.x0, mean), jnp.where(ends, last, std)
    return mean + std * loop.noise(key, x.shape)

  return loop.run_steps(step, denoise, x, ts, key)


def ddim(
  denoise, process, x, ts, cond, key, *, eta=0.0, clip=None, train_steps=None, end=0.0
):
  """DDIMScheduler: `ddim`, with clipping after eps is taken, and steps of its own.

  Args:
    denoise, process, x, ts, cond, key: see samplers/loop.py; x [B, T, H, W, C].
    eta: 0 is deterministic, 1 ancestral sampling.
    clip: x0 -> x0, applied after eps was computed from the estimate; a wrapper such
      as `denoise.edit_x0` changes both.
    train_steps: where given, each of the S steps leads from t to t - train_steps // S,
      wherever the next one starts, and to `end` if that is less than 1.
    end: the time of index -1.

  Returns:
    x0 [B, T, H, W, C], if `ts` ends at 0.
  """

  def step(denoise, x, t, t_next, key):
    if train_steps is not None:
      t_next = t - train_steps // (len(ts) - 1)
      t_next = jnp.where(t_next >= 1.0, t_next, end)
    x0 = denoise(x, t, cond).x0
    eps = p.eps_from_x0(process, x, x0, t)
    x0 = x0 if clip is None else clip(x0)
    return ddim_lib.ddim_step(process, x0, eps, t, t_next, key, eta)

  return loop.run_steps(step, denoise, x, ts, key)


def dpm_solver(
  denoise,
  process,
  x,
  ts,
  cond,
  key,
  *,
  solver,
  order,
  rule,
  lower_order_final,
  final_orders,
):
  """DPMSolverMultistepScheduler, whose last steps have a lower order if they are few.

  Args:
    denoise, process, x, ts, cond, key: see samplers/loop.py; x [B, T, H, W, C].
    solver: dpm_solver or dpm_solver_sde of samplers/dpm_solver.py.
    order, rule: of the solver.
    lower_order_final: whether the last two steps have order 2 and 1 if there are fewer
      than 15.
    final_orders: otherwise the highest orders of the last steps, the last first.

  Returns:
    x0 [B, T, H, W, C], if `ts` ends at 0.
  """
  final_orders = (1, 2) if lower_order_final and len(ts) - 1 < 15 else final_orders
  return solver(
    denoise,
    process,
    x,
    ts,
    cond,
    key,
    order=order,
    rule=rule,
    final_orders=final_orders,
  )
