"""DPM-Solver++, multistep, https://arxiv.org/abs/2211.01095, as an ODE and as an SDE.

In lambda = log(alpha / sigma), with a step h from t to s, the estimates of x0 now and
in the steps before are continued as a polynomial, D_0 + D_1 u + D_2 u^2 / 2, u being 0
at t and 1 at s; the rest of the equation is solved exactly:

  x_s = (sigma_s / sigma_t) x_t + alpha_s (c_0 D_0 + c_1 D_1 + c_2 D_2)
  c_0 = 1 - e^-h,  c_1 = h phi_2(-h),  c_2 = h phi_3(-h)

The SDE has x_t times e^-h, c of 2 h, and sigma_s sqrt(1 - e^-2h) noise.

Order 2, "2M", is the default, with c_1 = c_0 / 2: x0 in the middle of the step. One
call a step whatever the order. Each frame has its own history; its first step is of
first order, and a last one to 0 returns the estimate.
"""

import jax.numpy as jnp

from vdm_jax.diffusion import process as p
from vdm_jax.diffusion.samplers import loop

# c_1 of the second order, from H: h, and 2 h for the SDE.
RULES = {
  "midpoint": lambda H: -0.5 * jnp.expm1(-H),
  "heun": lambda H: H * phi(-H, 2),
}


def dpm_solver(
  denoise, process, x, ts, cond, key, *, order=2, rule="midpoint", final_orders=()
):
  """The multistep DPM-Solver++ sampler (ODE): x0 [B, T, H, W, C], if times end at 0.

  Args:
    denoise: (x_t, t [B, T], cond) -> Denoised, with field x0.
    process: forward process, which gives alpha and sigma of t.
    x, ts: noise [B, T, H, W, C] at the first of falling times, [S + 1] or [S + 1, T].
    cond, key: Conditioning for `denoise`; `key` is not used.
    order: 1, 2 or 3.
    rule: of the second order, "midpoint" or "heun".
    final_orders: the highest orders of the last steps, that of the last one first.
  """

  def step(x, terms, h, t, t_next, key):
    del key  # deterministic
    _, sigma = process.alpha_sigma(t)
    alpha_next, sigma_next = process.alpha_sigma(t_next)
    return p.mix((sigma_next / sigma, alpha_next), x, terms(h))

  return _multistep(step, denoise, process, x, ts, cond, key, order, rule, final_orders)


def dpm_solver_sde(
  denoise, process, x, ts, cond, key, *, order=2, rule="midpoint", final_orders=()
):
  """The multistep SDE-DPM-Solver++ sampler: x0 [B, T, H, W, C], if times end at 0.

  Args:
    denoise: (x_t, t [B, T], cond) -> Denoised, with field x0.
    process: forward process, which gives alpha and sigma of t.
    x, ts: noise [B, T, H, W, C] at the first of falling times, [S + 1] or [S + 1, T].
    cond, key: Conditioning for `denoise`; PRNG key of each step's noise.
    order: 1, 2 or 3.
    rule: of the second order, "midpoint" or "heun".
    final_orders: the highest orders of the last steps, that of the last one first.
  """

  def step(x, terms, h, t, t_next, key):
    _, sigma = process.alpha_sigma(t)
    alpha_next, sigma_next = process.alpha_sigma(t_next)
    x_next = p.mix((sigma_next / sigma * jnp.exp(-h), alpha_next), x, terms(2.0 * h))
    std = sigma_next * jnp.sqrt(-jnp.expm1(-2.0 * h))
    return x_next + p.expand(std) * loop.noise_by_frame(key, x.shape)

  return _multistep(step, denoise, process, x, ts, cond, key, order, rule, final_orders)


def half_log_snr(process, t):
  """log(alpha / sigma) [B, T] at times t [B, T], half the log signal-to-noise ratio."""
  alpha, sigma = process.alpha_sigma(t)
  return jnp.log(alpha) - jnp.log(sigma)


def make_order_by_frame(ts, num_frames, order, final_orders):
  """A function (t, num_estimates) -> the order of each frame's next step, all [B, T].

  `num_estimates` are those of x0 that a frame has from earlier steps.

  Args:
    ts: falling times [S + 1] or [S + 1, num_frames] of all steps.
    order, final_orders: the highest of all steps, and of the last ones, the last first.
  """
  if order not in (1, 2, 3):
    raise ValueError(f"order={order}; expected 1, 2 or 3.")
  starts = loop.last_step_times(ts, num_frames, len(final_orders))

  def at(t, num_estimates):
    out = jnp.minimum(order, 1 + num_estimates)
    for start, cap in zip(starts, final_orders, strict=True):
      out = jnp.where(t <= start, jnp.minimum(out, cap), out)
    return out

  return at


def phi(x, order):
  """phi_k(x) = 1 / k! + x / (k + 1)! + ..., k = order, of x's shape."""
  series, direct = 0.0, 0.0
  factorials = [1.0]
  for k in range(1, order + 10):
    factorials.append(factorials[-1] * k)
  small = jnp.abs(x) < 0.5
  y = jnp.where(small, 1.0, x)
  direct = jnp.expm1(y) / y
  for k in range(1, order):
    direct = (direct - 1.0 / factorials[k]) / y
  for k in reversed(range(9)):
    series = series * x + 1.0 / factorials[order + k]
  return jnp.where(small, series, direct)


def _multistep(step, denoise, process, x, ts, cond, key, order, rule, final_orders):
  """Runs `step` with the terms c_0 D_0 + c_1 D_1 + c_2 D_2 as a function of H."""
  if rule not in RULES:
    raise ValueError(f"rule={rule!r}; expected one of {set(RULES)}.")
  order_at = make_order_by_frame(ts, x.shape[1], order, final_orders)

  def body(denoise, x, t, t_next, key, memory):
    x0_1, x0_2, t_1, t_2 = memory  # of one and two steps ago
    has_1, has_2 = t_1 > t, t_2 > t
    here = half_log_snr(process, t)
    lambda_1 = half_log_snr(process, jnp.maximum(t_1, t))
    lambda_2 = half_log_snr(process, jnp.maximum(t_2, t))
    h = half_log_snr(process, t_next) - here
    h_1 = jnp.where(has_1, here - lambda_1, 1.0)
    h_2 = jnp.where(has_2, lambda_1 - lambda_2, 1.0)
    now = order_at(t, has_1.astype(int) + has_2)

    x0 = denoise(x, t, cond).x0
    slope = p.expand(h / h_1) * (x0 - x0_1)
    bend = slope - p.expand(h / h_2) * (x0_1 - x0_2)

    def terms(H):
      one, two = now > 1, now > 2
      c_1 = jnp.where(two, H * phi(-H, 2), jnp.where(one, RULES[rule](H), 0.0))
      out = p.mix((-jnp.expm1(-H), c_1), x0, slope)
      if order < 3:
        return out
      both = h_1 + h_2
      c_2 = c_1 * h_1 / both + H * phi(-H, 3) * h / both
      return out + p.expand(jnp.where(two, c_2, 0.0)) * bend

    x_next = step(x, terms, h, t, t_next, key)
    x_next = jnp.where(p.expand(t_next) > 0.0, x_next, x0)
    return x_next, (x0, x0_1, t, t_1)

  nothing = jnp.zeros_like(x)
  never = jnp.full(x.shape[:2], -1.0, loop.schedule_matrix(ts, x.shape[1]).dtype)
  memory = nothing, nothing, never, never
  return loop.run_steps(body, denoise, x, ts, key, memory=memory)
