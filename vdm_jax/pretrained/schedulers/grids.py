"""Noise tables and grids of times of diffusers' schedulers, with their rounding.

Times are those of the process: t = index + 1 for DDPM, sigma / alpha for EDM and
SigmaTableProcess, sigma for Flow.
"""

import math

import numpy as np
import scipy.stats

from vdm_jax.diffusion import process as p

RHO = 7.0
SHAPES = (
  "use_karras_sigmas",
  "use_exponential_sigmas",
  "use_beta_sigmas",
  "use_lu_lambdas",
)
# A ratio that float32 could put on the other side of a whole index keeps this away.
MARGIN = 5e-6


def betas(config):
  """Betas [N] float32 of a complete scheduler_config.json dict, equal to the bit."""
  count, first, last = (
    config[k] for k in ("num_train_timesteps", "beta_start", "beta_end")
  )
  if config["trained_betas"] is not None:
    table = np.asarray(config["trained_betas"], np.float32)
  elif config["beta_schedule"] == "linear":
    table = _linspace(first, last, count)
  elif config["beta_schedule"] == "scaled_linear":
    table = _linspace(first**0.5, last**0.5, count) ** 2
  else:
    table = p.betas("squaredcos", count).astype(np.float32)
  return _zero_terminal_snr(table) if config["rescale_betas_zero_snr"] else table


def alpha_bars(config):
  """Cumulative products of 1 - beta, [N] float32, equal to diffusers' to the bit.

  Of a complete scheduler_config.json dict. The last is 0 where rescaling to zero
  terminal SNR makes it so.
  """
  alphas = np.float32(1.0) - betas(config)
  return np.cumprod(alphas.astype(np.float64)).astype(np.float32)


def noise_to_signal(config):
  """sigma / alpha of N training steps, [N] float32, of a scheduler_config.json dict.

  With rescaling to zero terminal SNR the last is 4096, as in diffusers.
  """
  alpha_bar = alpha_bars(config)
  if config["rescale_betas_zero_snr"]:
    alpha_bar[-1] = 2.0**-24
  return np.sqrt((np.float32(1.0) - alpha_bar) / alpha_bar)


def increasing_noise_to_signal(config):
  """sigma / alpha of the N training steps, an increasing tuple of floats.

  Of a complete scheduler_config.json dict. A table rescaled to zero terminal SNR ends
  in 4096, which can be less than the ones before; those are moved below it.
  """
  table = noise_to_signal(config)
  below = table[-1] * (1.0 - 1e-6 * np.arange(len(table))[::-1])
  if is_spaced_by_sigma(config) and (table > below).any():
    raise ValueError(
      "With these betas, rescale_betas_zero_snr makes noise levels that do not rise, "
      "and a grid of sigmas has no index among them; take another timestep_spacing "
      "in place of use_karras_sigmas and the like."
    )
  return tuple(map(float, np.minimum(table, below)))


def is_spaced_by_sigma(config):
  """Whether a scheduler_config.json dict spaces times in sigma (Karras'), not in t."""
  return any(config.get(shape) for shape in SHAPES)


def ddpm_grid(num_steps, *, config, end=0.0):
  """Falling times [S + 1] float32 of DDPM and DDIM: numbers of training steps, from 1.

  Args:
    num_steps, config: S; a complete scheduler_config.json dict.
    end: the last time, 0 for the data.
  """
  return np.asarray([*(_spaced(config, num_steps) + 1), end], np.float32)


def euler_grid(num_steps, *, config):
  """The falling times of diffusers' EulerDiscreteScheduler, [S + 1] float32.

  They are sigma / alpha. `config` is a scheduler_config.json with all its defaults, a
  dict; S is `num_steps`.
  """
  table = noise_to_signal(config)
  indices = _spaced(config, num_steps)
  if config["timestep_spacing"] == "linspace":  # between whole ones
    indices = np.linspace(0, len(table) - 1, num_steps, dtype=np.float32)[::-1]
  grid = np.interp(indices, np.arange(len(table)), table)
  if is_spaced_by_sigma(config):
    grid = _sigmas(config, float(grid[0]), float(grid[-1]), num_steps)
  return _ended(grid, table, config)


def multistep_grid(num_steps, *, config, mu=None, sigmas=None):
  """Falling sigma / alpha [S + 1] float32, the times of DPM-Solver and UniPC.

  Args:
    num_steps, config: S; a complete scheduler_config.json dict. With flow sigmas the
      times are Flow's, sigma itself.
    mu: the log of the shift, where it is dynamic.
    sigmas: [S] in place of evenly spaced ones, before the shift; of Flow, UniPC only.
  """
  table, count = noise_to_signal(config), config["num_train_timesteps"]
  _check(num_steps, count)
  if config["use_flow_sigmas"]:
    if is_spaced_by_sigma(config):
      grid = _sigmas(config, float(table[-1]), float(table[0]), num_steps)
      grid = grid / (grid + 1.0)
    else:
      grid = _flow(num_steps, config, mu, sigmas)
    whole = np.floor(count * grid)
    inside = np.clip(count * grid, whole + 1e-3, whole + 1.0 - 1e-3) / count
    return np.asarray([*inside, 0.0], np.float32)
  if not is_spaced_by_sigma(config):
    indices = _multistep_indices(num_steps, config)
    grid = np.interp(indices, np.arange(len(table)), table)
  else:
    grid = _sigmas(config, float(table[-1]), float(table[0]), num_steps)
    if rounds_time_down(config):
      grid = _keep_indices(grid, table)
  return _ended(grid, table, config)


def rounds_time_down(config):
  """Whether the network's time is rounded down to a training step, not to the nearest.

  `config` is a complete scheduler_config.json dict.
  """
  if config["use_exponential_sigmas"] or config["use_beta_sigmas"]:
    return True
  squared = config["beta_schedule"] == "squaredcos_cap_v2"
  return squared and config["_class_name"] == "DPMSolverMultistepScheduler"


def flow_match_grid(num_steps, *, config, mu=None, sigmas=None):
  """Falling sigmas [S + 1] float32, the times of FlowMatchEulerDiscreteScheduler.

  Args:
    num_steps, config: S; a complete scheduler_config.json dict.
    mu: of the dynamic shift; a pipeline computes it from the size of the video.
    sigmas: [S] in place of evenly spaced ones, before the shift.
  """
  count = config["num_train_timesteps"]
  _check(num_steps, count)
  if sigmas is None:
    # The ends are shifted before they are spaced and then again, as in the original.
    ends = np.asarray([count, 1], np.float32) / np.float32(count)
    if not config["use_dynamic_shifting"]:
      ends = _shift(ends, np.float32(config["shift"]))
    sigmas = np.linspace(*(float(s) * count for s in ends), num_steps) / count
  else:
    sigmas = _given(sigmas, num_steps)
  sigmas = _shift_as_configured(sigmas, config, config["shift"], mu)
  if is_spaced_by_sigma(config):
    sigmas = _sigmas(config, float(sigmas[0]), float(sigmas[-1]), num_steps)
  return np.asarray([*sigmas, 0.0], np.float32)


def _linspace(first, last, count):
  """torch.linspace in float32: from both ends to the middle, fused multiply and add."""
  first, last = np.float32(first), np.float32(last)
  step = np.float64((last - first) / np.float32(count - 1))
  i = np.arange(count)
  rising, falling = first + step * i, last - step * (count - 1 - i)
  return np.where(i < count // 2, rising, falling).astype(np.float32)


def _zero_terminal_snr(table):
  """process.zero_terminal_snr in float32 and with nothing left at the end."""
  alphas = np.float32(1.0) - table
  alpha = np.sqrt(np.cumprod(alphas.astype(np.float64)).astype(np.float32))
  first, last = alpha[0], alpha[-1]
  alpha_bar = ((alpha - last) * (first / (first - last))) ** 2
  return 1.0 - np.concatenate([alpha_bar[:1], alpha_bar[1:] / alpha_bar[:-1]])


def _check(num_steps, count):
  if not 1 <= num_steps <= count:
    raise ValueError(f"num_steps={num_steps}; the scheduler takes 1 to {count}.")


def _spaced(config, num_steps):
  """Whole indices, falling: DDPM's, DDIM's and Euler's."""
  count, spacing = config["num_train_timesteps"], config["timestep_spacing"]
  _check(num_steps, count)
  if spacing == "linspace":
    return np.linspace(0, count - 1, num_steps).round()[::-1]
  if spacing == "trailing":
    # One more, of no meaning, where count / num_steps rounds down: it is left out.
    return np.arange(count, 0, -count / num_steps).round()[:num_steps] - 1
  indices = np.arange(num_steps)[::-1] * (count // num_steps) + config["steps_offset"]
  return _on_table(indices, count)


def _multistep_indices(num_steps, config):
  """Whole indices, falling: those of num_steps + 1 without the last."""
  count, spacing = config["num_train_timesteps"], config["timestep_spacing"]
  last = count
  if (least := config.get("lambda_min_clipped", -math.inf)) > -math.inf:
    alpha_bar = alpha_bars(config)
    log_snr = np.log(np.sqrt(alpha_bar)) - np.log(np.sqrt(1 - alpha_bar))
    last -= int(np.searchsorted(log_snr[::-1], least))
  if spacing == "linspace":
    return np.linspace(0, last - 1, num_steps + 1).round()[:0:-1]
  if spacing == "trailing":
    return np.arange(last, 0, -count / num_steps).round()[:num_steps] - 1
  indices = np.arange(num_steps + 1)[:0:-1] * (last // (num_steps + 1))
  return _on_table(indices + config["steps_offset"], count)


def _on_table(indices, count):
  if indices.max() >= count:
    raise ValueError(
      f"steps_offset leads to the index {indices.max()} of {count}; take fewer steps."
    )
  return indices


def _sigmas(config, high, low, num_steps):
  """[S] float64 from high to low, or from sigma_max to sigma_min of the config."""
  u = np.linspace(0, 1, num_steps)
  if config.get("use_lu_lambdas"):
    first, last = (float(np.log(np.float32(x))) for x in (high, low))
    return np.exp(first + u * (last - first))
  low = low if config.get("sigma_min") is None else config["sigma_min"]
  high = high if config.get("sigma_max") is None else config["sigma_max"]
  if config["use_karras_sigmas"]:
    first, last = high ** (1 / RHO), low ** (1 / RHO)
    return (first + u * (last - first)) ** RHO
  if config["use_exponential_sigmas"]:
    return np.exp(np.linspace(math.log(high), math.log(low), num_steps))
  return low + scipy.stats.beta.ppf(1 - u, 0.6, 0.6) * (high - low)


def _keep_indices(grid, table):
  """The ratios, moved by MARGIN off the whole indices that they are rounded down to.

  Where a ratio is the table's own, the original's rounding of logarithms decides.
  """
  logs, at = np.log(table), np.log(grid)
  low = np.clip(np.searchsorted(logs, at, side="right") - 1, 0, len(table) - 2)
  part = np.clip((logs[low] - at) / (logs[low] - logs[low + 1]), 0, 1)
  index = ((1 - part) * low + part * (low + 1)).astype(int)
  above = np.append(table[1:], np.inf) * (1 - MARGIN)
  below = np.append(0.0, table[1:]) * (1 + MARGIN)
  return np.clip(grid, below[index], above[index])


def _ended(grid, table, config):
  last = table[0] if config.get("final_sigmas_type") == "sigma_min" else 0.0
  return np.asarray([*grid, last], np.float32)


def _flow(num_steps, config, mu, sigmas):
  """Shifted sigmas [S] for DPM-Solver and UniPC, each spaced by its own rule."""
  count, shift = config["num_train_timesteps"], config["flow_shift"]
  if config["_class_name"] == "DPMSolverMultistepScheduler":
    if sigmas is not None:
      raise ValueError("DPMSolverMultistepScheduler takes no sigmas of its caller.")
    if mu is not None and not config["use_dynamic_shifting"]:
      raise ValueError(f"mu={mu} and use_dynamic_shifting is False.")
    sigmas = 1.0 - np.linspace(1, 1 / count, num_steps + 1)
    return _shift(sigmas, shift if mu is None else math.exp(mu))[:0:-1]
  if sigmas is None:
    sigmas = np.linspace(1, 1 / count, num_steps + 1)[:-1]
  else:
    sigmas = np.array(_given(sigmas, num_steps), np.float64)
  sigmas = _shift_as_configured(sigmas, config, shift, mu)
  if abs(sigmas[0] - 1) < 1e-6:
    sigmas[0] -= 1e-6  # 1 has no log SNR
  return sigmas


def _given(sigmas, num_steps):
  if len(sigmas) != num_steps:
    raise ValueError(f"{len(sigmas)} sigmas were given for num_steps={num_steps}.")
  return np.asarray(sigmas, np.float32)


def _shift(sigmas, shift):
  return shift * sigmas / (1 + (shift - 1) * sigmas)


def _shift_as_configured(sigmas, config, shift, mu):
  """Sigmas shifted by `shift`, or by mu, and stretched to end at shift_terminal."""
  if not config["use_dynamic_shifting"]:
    sigmas = _shift(sigmas, shift)
  elif mu is None:
    raise ValueError("The shift is dynamic (use_dynamic_shifting): give mu to ts.")
  else:
    factor = math.exp(mu) if config["time_shift_type"] == "exponential" else mu
    sigmas = factor / (factor + (1 / sigmas - 1))
  if terminal := config["shift_terminal"]:
    sigmas = 1 - (1 - sigmas) / ((1 - sigmas[-1]) / (1 - terminal))
  return sigmas
