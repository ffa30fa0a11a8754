"""UniPC, https://arxiv.org/abs/2302.04867, on estimates of x0.

A predictor from the last estimates, as in DPM-Solver++; then, when the network is
called at the predicted point, the step that led there is taken again with that
estimate as one more: a corrector that costs no call, and gives one order more.

  x_s = (sigma_s / sigma_t) x_t + alpha_s (1 - e^-h) (x0_t + sum_i rho_i D_i)

h is the step in lambda = log(alpha / sigma), D_i = (x0_i - x0_t) / r_i, r_i the
distance of estimate i from t in units of h, and rho solves sum_i rho_i r_i^(k-1) = b_k.
With a single D the paper takes rho = B(h) / (2 (e^-h - 1)), for B of two kinds. Each
frame has its own history and starts at first order.
"""

import jax.numpy as jnp

from vdm_jax.diffusion import process as p
from vdm_jax.diffusion.samplers import dpm_solver, loop

# rho of a single D; the paper's B_1(h) = -h and B_2(h) = e^-h - 1.
KINDS = {"bh1": lambda h: -0.5 * h / jnp.expm1(-h), "bh2": lambda h: 0.5}


def unipc(denoise, process, x, ts, cond, key, *, order=2, kind="bh2", final_orders=()):
  """The UniPC sampler: x0 [B, T, H, W, C] from noise, if the times end at 0.

  Args:
    denoise: (x_t, t [B, T], cond) -> Denoised, with field x0.
    process: forward process, which gives alpha and sigma of t.
    x, ts: noise [B, T, H, W, C] at the first of falling times, [S + 1] or [S + 1, T].
    cond, key: Conditioning for `denoise`; `key` is not used.
    order: of the predictor, 1, 2 or 3; the corrector's is one more.
    kind: B(h) of the paper, "bh1" or "bh2".
    final_orders: the highest orders of the last steps, that of the last one first.
  """
  if kind not in KINDS:
    raise ValueError(f"kind={kind!r}; expected one of {set(KINDS)}.")
  order_at = dpm_solver.make_order_by_frame(ts, x.shape[1], order, final_orders)

  def step(denoise, x, t, t_next, key, memory):
    del key  # deterministic
    x_1, values, times = memory  # of one, two .. steps ago
    has = [u > t for u in times]
    known = sum(h.astype(int) for h in has)
    lambdas = [
      dpm_solver.half_log_snr(process, jnp.where(h, u, t))
      for h, u in zip(has, times, strict=True)
    ]
    here, there = (dpm_solver.half_log_snr(process, u) for u in (t, t_next))
    x0 = denoise(x, t, cond).x0

    h = jnp.where(has[0], here - lambdas[0], 1.0)
    nodes = _nodes(lambdas[0], lambdas[1:], has[1:], h)
    D = [(v - values[0]) / p.expand(r) for v, r in zip(values[1:], nodes, strict=True)]
    rhos = _corrector(h, nodes, order_at(times[0], known - 1), kind)
    target = values[0]
    for rho, d in zip(rhos, [x0 - values[0], *D], strict=True):
      target += p.expand(rho) * d
    corrected = _exact(process, x_1, target, jnp.where(has[0], times[0], t), t)
    x = jnp.where(p.expand(has[0]), corrected, x)

    h = there - here
    h = jnp.where(h > 0.0, h, 1.0)  # a frame that waits
    nodes = _nodes(here, lambdas[: order - 1], has[: order - 1], h)
    now = values[: order - 1]
    D = [(v - x0) / p.expand(r) for v, r in zip(now, nodes, strict=True)]
    target = x0
    for rho, d in zip(_predictor(h, nodes, order_at(t, known), kind), D, strict=True):
      target += p.expand(rho) * d
    x_next = _exact(process, x, target, t, t_next)
    x_next = jnp.where(p.expand(t_next) > 0.0, x_next, x0)
    return x_next, (x, [x0, *values[:-1]], [t, *times[:-1]])

  nothing = jnp.zeros_like(x)
  never = jnp.full(x.shape[:2], -1.0, loop.schedule_matrix(ts, x.shape[1]).dtype)
  memory = nothing, [nothing] * order, [never] * order
  return loop.run_steps(step, denoise, x, ts, key, memory=memory)


def _exact(process, x, x0, t, t_next):
  """The probability flow from t to t_next, if x0 stays what it is."""
  h = dpm_solver.half_log_snr(process, t_next) - dpm_solver.half_log_snr(process, t)
  _, sigma = process.alpha_sigma(t)
  alpha_next, sigma_next = process.alpha_sigma(t_next)
  return p.mix((-alpha_next * jnp.expm1(-h), sigma_next / sigma), x0, x)


def _nodes(start, lambdas, has, h):
  """The distances r < 0 of earlier estimates; where there are none, -1, -2 .."""
  return [
    jnp.where(known, (u - start) / h, -1.0 - i)
    for i, (u, known) in enumerate(zip(lambdas, has, strict=True))
  ]


def _predictor(h, nodes, order, kind):
  """rho of each earlier estimate, [B, T]; 0 for those beyond the order."""
  rhos = [jnp.zeros_like(h)] * len(nodes)
  if nodes:
    rhos[0] = jnp.where(order == 2, KINDS[kind](h), 0.0)
  if len(nodes) > 1:
    solved = _weights(nodes, _moments(h, 2))
    rhos = [jnp.where(order == 3, a, b) for a, b in zip(solved, rhos, strict=True)]
  return rhos


def _corrector(h, nodes, order, kind):
  """rho of the newest estimate, then of each earlier one; 0 beyond the order."""
  rhos = [jnp.where(order == 1, KINDS[kind](h), 0.0), *[jnp.zeros_like(h)] * len(nodes)]
  for n in range(1, len(nodes) + 1):
    solved = _weights([1.0, *nodes[:n]], _moments(h, n + 1))
    for i, rho in enumerate(solved):
      rhos[i] = jnp.where(order == n + 1, rho, rhos[i])
  return rhos


def _moments(h, count):
  """b_1, b_2 .. for B(h) = e^-h - 1."""
  first, factorial, out = -h / jnp.expm1(-h), 1.0, []
  for k in range(1, count + 1):
    factorial *= k
    out.append(first * factorial * dpm_solver.phi(-h, k + 1))
  return out


def _weights(nodes, moments):
  """rho with sum_j rho_j nodes_j^k = moments_k, by Lagrange's polynomials."""
  out = []
  for j, at in enumerate(nodes):
    poly = [1.0]  # its coefficients, of rising powers
    for other in (*nodes[:j], *nodes[j + 1 :]):
      rise, fall = [0.0, *poly], [*(-other * c for c in poly), 0.0]
      poly = [(a + b) / (at - other) for a, b in zip(rise, fall, strict=True)]
    out.append(sum(c * m for c, m in zip(poly, moments, strict=True)))
  return out
