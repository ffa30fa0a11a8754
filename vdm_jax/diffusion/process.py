"""Gaussian forward processes and what a network predicts about them.

  x_t = alpha(t) x0 + sigma(t) eps,     eps ~ N(0, I)

t is 0 at the data and rises with the noise. It has one value per frame, [B, T], so
known frames are frames at t = 0 among noisy ones.

A network predicts another mixture of the same two unknowns,

  F = a(t) x0 + b(t) eps

so every parameterisation is a pair (a, b), and x0 follows from a 2x2 inverse.

Both alpha and sigma are kept >= FLOOR: t = 0 is a legal time, nothing divides by
zero, and `x0_from_output` inverts `mix` everywhere. What the floor cannot give back
is precision: where alpha vanishes an eps prediction says nothing about x0, and the
inverse multiplies its error by sigma / alpha. With eps, choose a process whose alpha
stays well above zero (DDPM ends at 0.006, Cosine at 0.0016; Flow ends at 0).
"""

import dataclasses
import functools
from typing import Protocol

import jax.numpy as jnp
import numpy as np
from einops import rearrange

FLOOR = 1e-5


class Process(Protocol):
  """A forward process, x_t = alpha(t) x0 + sigma(t) eps; times t are [B, T].

  t is 0 at the data and `t_max` at the noisiest.
  """

  t_max: float  # the noisiest time

  def alpha_sigma(self, t):
    """(alpha, sigma) of times t, each of t's shape and >= FLOOR."""

  def rates(self, t):
    """The derivatives (d alpha / dt, d sigma / dt), each of t's shape."""

  def network_inputs(self, x_t, t):
    """(x [B, T, H, W, C], time [B, T]) in the network's own scale and units."""


# Betas of step 1 and of the last of 1000 steps: DDPM (https://arxiv.org/abs/2006.11239)
# and Stable Diffusion. "squaredcos" (https://arxiv.org/abs/2102.09672) has no ends.
BETAS = {"linear": (1e-4, 0.02), "scaled_linear": (0.00085, 0.012), "squaredcos": None}


@functools.cache
def betas(schedule, num_steps=1000, ends=None):
  """The noise variances beta [num_steps] of a named DDPM schedule, float64.

  Args:
    schedule: "linear" in beta, "scaled_linear" in its square root, or "squaredcos".
    num_steps: the first two are stated for 1000 steps and scaled by 1000 / num_steps;
      "squaredcos" is that of num_steps.
    ends: (first, last) beta in place of the published ones.
  """
  if schedule not in BETAS:
    raise ValueError(f"schedule={schedule!r}; expected one of {sorted(BETAS)}.")
  if schedule == "squaredcos":
    if ends is not None:
      raise ValueError("The schedule 'squaredcos' has no beta_ends; leave them out.")
    u = np.arange(num_steps + 1) / num_steps
    alpha_bar = np.cos((u + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.minimum(1.0 - alpha_bar[1:] / alpha_bar[:-1], 0.999)
  first, last = ends or BETAS[schedule]
  power = 2 if schedule == "scaled_linear" else 1
  table = np.linspace(first ** (1 / power), last ** (1 / power), num_steps) ** power
  return np.minimum(table * 1000 / num_steps, 0.999)


def zero_terminal_snr(betas):
  """The betas [num_steps], rescaled so that the last alpha_bar is 1e-10, nearly zero.

  sqrt(alpha_bar) is moved and stretched; its first value stays. Algorithm 1 of
  https://arxiv.org/abs/2305.08891; for predictions that determine x0 where alpha
  vanishes (v, x0), never for eps.
  """
  alpha = np.sqrt(np.cumprod(1.0 - betas))
  alpha = (alpha - alpha[-1]) * (alpha[0] - FLOOR) / (alpha[0] - alpha[-1]) + FLOOR
  alpha_bar = np.concatenate([[1.0], alpha**2])
  return 1.0 - alpha_bar[1:] / alpha_bar[:-1]


@dataclasses.dataclass(frozen=True)
class DDPM:
  """The variance-preserving process of a table of betas; times t are in [0, num_steps].

  t = 0 is the data, t = k + 1 the published index k (the network sees k). Between
  steps log alpha_bar is interpolated, so any t is a time.

  Attributes:
    schedule: "linear", "scaled_linear" (Stable Diffusion's) or "squaredcos".
    beta_ends: (first, last) beta; None: the published ones of the schedule.
    zero_snr: whether the betas are rescaled to a terminal SNR of (nearly) zero.
    table: num_steps betas, in place of a schedule's; None: the schedule's.
  """

  schedule: str = "linear"
  num_steps: int = 1000
  beta_ends: tuple[float, float] | None = None
  zero_snr: bool = False
  table: tuple[float, ...] | None = dataclasses.field(default=None, repr=False)

  def __post_init__(self):
    if self.table is None:
      betas(self.schedule, self.num_steps, self._ends)  # refuses a wrong name
    elif len(self.table) != self.num_steps:
      raise ValueError(f"{len(self.table)} betas for num_steps={self.num_steps}.")

  @property
  def t_max(self):
    """The noisiest time, num_steps as a float."""
    return float(self.num_steps)

  @property
  def _ends(self):
    return None if self.beta_ends is None else tuple(self.beta_ends)

  @property
  def betas(self):
    """The betas [num_steps], float64, rescaled if `zero_snr`."""
    if self.table is not None:
      table = np.asarray(self.table)
    else:
      table = betas(self.schedule, self.num_steps, self._ends)
    return zero_terminal_snr(table) if self.zero_snr else table

  def _log_alpha_bar(self, t):
    """log alpha_bar and its derivative, that of the step which ends at t."""
    # float64 here, float32 there: the running sum must not collect rounding errors.
    slopes = np.log1p(-self.betas)
    i = jnp.clip(jnp.ceil(t) - 1, 0, self.num_steps - 1).astype(jnp.int32)
    slope = jnp.asarray(slopes, float)[i]
    end = jnp.asarray(np.cumsum(slopes), float)[i]
    return end - (i + 1 - t) * slope, slope

  def log_alpha_bar_ratio(self, t, s):
    """log(alpha_bar_t / alpha_bar_s), of t's shape, precise where t and s are close."""
    slopes = np.log1p(-self.betas)
    sums = np.cumsum(slopes)
    high = sums.astype(np.float32)
    tables = [jnp.asarray(x, float) for x in (slopes, high, sums - high)]

    def parts(t):
      t = jnp.asarray(t, float)
      i = jnp.clip(jnp.ceil(t) - 1, 0, self.num_steps - 1).astype(jnp.int32)
      slope, high, low = (x[i] for x in tables)
      return high, low - (i + 1 - t) * slope

    (high_t, rest_t), (high_s, rest_s) = parts(t), parts(s)
    return (high_t - high_s) + (rest_t - rest_s)

  def alpha_sigma(self, t):
    """(alpha, sigma) of times t, each of t's shape and >= 1e-5."""
    value, _ = self._log_alpha_bar(jnp.asarray(t, float))
    alpha, sigma = jnp.exp(0.5 * value), jnp.sqrt(jnp.maximum(-jnp.expm1(value), 0.0))
    return jnp.maximum(alpha, FLOOR), jnp.maximum(sigma, FLOOR)

  def rates(self, t):
    """The derivatives (d alpha / dt, d sigma / dt), each of t's shape."""
    _, slope = self._log_alpha_bar(jnp.asarray(t, float))
    alpha, sigma = self.alpha_sigma(t)
    return 0.5 * alpha * slope, -0.5 * alpha**2 * slope / sigma

  def network_inputs(self, x_t, t):
    """(x_t, published index t - 1, at least 0): the network's inputs at t [B, T]."""
    return x_t, jnp.maximum(t - 1.0, 0.0)


@dataclasses.dataclass(frozen=True)
class Cosine:
  """The variance-preserving cosine process: alpha = cos, sigma = sin of pi t / 2.

  The continuous limit of https://arxiv.org/abs/2102.09672. t is in [0, t_max]; at 0.999
  alpha is still 0.0016, so that every prediction can start there.
  """

  t_max: float = 0.999

  def alpha_sigma(self, t):
    """(alpha, sigma) of times t, each of t's shape and >= 1e-5."""
    u = 0.5 * jnp.pi * jnp.asarray(t, float)
    return jnp.maximum(jnp.cos(u), FLOOR), jnp.maximum(jnp.sin(u), FLOOR)

  def rates(self, t):
    """The derivatives (d alpha / dt, d sigma / dt), each of t's shape."""
    u = 0.5 * jnp.pi * jnp.asarray(t, float)
    return -0.5 * jnp.pi * jnp.sin(u), 0.5 * jnp.pi * jnp.cos(u)

  def network_inputs(self, x_t, t):
    """(x_t, 1000 t): the network's inputs at times t [B, T]."""
    return x_t, 1000.0 * t


@dataclasses.dataclass(frozen=True)
class Flow:
  """Rectified flow, https://arxiv.org/abs/2209.03003: alpha = 1 - t, sigma = t.

  t is in [0, t_max = 1], and the network sees `scale` t. SD3's shift is a property of
  times, not of this process: `times.shifted`, `times.shifted_grid`.
  """

  t_max: float = 1.0
  scale: float = 1000.0

  def alpha_sigma(self, t):
    """(alpha, sigma) of times t, each of t's shape and >= 1e-5."""
    t = jnp.asarray(t, float)
    return jnp.maximum(1.0 - t, FLOOR), jnp.maximum(t, FLOOR)

  def rates(self, t):
    """The derivatives (d alpha / dt, d sigma / dt) = (-1, 1), each of t's shape."""
    return -jnp.ones_like(t), jnp.ones_like(t)

  def network_inputs(self, x_t, t):
    """(x_t, scale t): the network's inputs at times t [B, T]."""
    return x_t, self.scale * t


@dataclasses.dataclass(frozen=True)
class EDM:
  """The variance-exploding process of EDM: alpha = 1, and sigma = t in [0, t_max].

  https://arxiv.org/abs/2206.00364. `sigma_data` is the deviation of the data: 0.5 for
  images, 1 for unit latents.
  """

  t_max: float = 80.0
  sigma_data: float = 0.5

  def alpha_sigma(self, t):
    """(alpha, sigma) of times t, each of t's shape; sigma >= 1e-5."""
    t = jnp.asarray(t, float)
    return jnp.ones_like(t), jnp.maximum(t, FLOOR)

  def rates(self, t):
    """The derivatives (d alpha / dt, d sigma / dt) = (0, 1), each of t's shape."""
    return jnp.zeros_like(t), jnp.ones_like(t)

  def network_inputs(self, x_t, t):
    """(x_t / sqrt(sigma^2 + sigma_data^2), log(sigma) / 4), the network's inputs."""
    _, sigma = self.alpha_sigma(t)
    scale = 1.0 / jnp.sqrt(sigma**2 + self.sigma_data**2)
    return expand(scale) * x_t, 0.25 * jnp.log(sigma)


PREDICTIONS = ("x0", "eps", "v", "velocity", "edm")


def check_prediction(prediction, process):
  """Raises a ValueError for a prediction that is unknown or needs another process."""
  if prediction not in PREDICTIONS:
    raise ValueError(f"prediction={prediction!r}; expected one of {PREDICTIONS}.")
  if prediction == "edm" and not hasattr(process, "sigma_data"):
    raise ValueError(
      f"prediction='edm' needs a process with sigma_data (EDM), got {process}; 'v' is "
      "its like for the others."
    )


def prediction_coefficients(prediction, process, t):
  """(a, b), each of t's shape, of the network's prediction F = a x0 + b eps at times t.

  `prediction` is one of:

  x0        (1, 0)
  eps       (0, 1)
  v         (-sigma, alpha) / sqrt(alpha^2 + sigma^2), https://arxiv.org/abs/2202.00512;
            the root is 1 if variance is preserved; on EDM this is what SVD predicts
  velocity  (alpha', sigma') = dx/dt
  edm       (sigma / (sd n), -sd / n), n = sqrt(sigma^2 + sd^2), sd = sigma_data
  """
  check_prediction(prediction, process)
  alpha, sigma = process.alpha_sigma(t)
  one, zero = jnp.ones_like(sigma), jnp.zeros_like(sigma)
  if prediction == "x0":
    return one, zero
  if prediction == "eps":
    return zero, one
  if prediction == "v":
    norm = jnp.sqrt(alpha**2 + sigma**2)
    return -sigma / norm, alpha / norm
  if prediction == "velocity":
    return process.rates(t)
  norm = jnp.sqrt(sigma**2 + process.sigma_data**2)
  return sigma / (process.sigma_data * norm), -process.sigma_data / norm


def expand(t):
  """Per-frame values [B, T] as [B, T, 1, 1, 1], to broadcast against videos."""
  return rearrange(t, "b t -> b t 1 1 1")


def mix(coeffs, x0, eps):
  """a x0 + b eps [B, T, H, W, C] for coeffs (a, b), each [B, T]: x_t, F or dx/dt."""
  a, b = coeffs
  return expand(a) * x0 + expand(b) * eps


def determinant(prediction, process, t):
  """alpha b - sigma a [B, T], never zero: the determinant of (x_t, F) in (x0, eps).

  x_t = alpha x0 + sigma eps is the noisy video, F = a x0 + b eps what the network
  predicts at times t [B, T].
  """
  alpha, sigma = process.alpha_sigma(t)
  a, b = prediction_coefficients(prediction, process, t)
  return alpha * b - sigma * a


def x0_from_output(process, prediction, x_t, out, t):
  """The estimate of x0 [B, T, H, W, C] from x_t and a network's output of that shape.

  `prediction` says what the output is: "x0", "eps", "v", "velocity" or "edm"; t [B, T].
  """
  _, sigma = process.alpha_sigma(t)
  _, b = prediction_coefficients(prediction, process, t)
  det = determinant(prediction, process, t)
  # Divided first: for an x0 prediction this is (0, 1) exactly.
  return mix((b / det, -sigma / det), x_t, out)


def eps_from_x0(process, x_t, x0, t):
  """(x_t - alpha x0) / sigma [B, T, H, W, C]: the noise in x_t if the data is x0."""
  alpha, sigma = process.alpha_sigma(t)
  return (x_t - expand(alpha) * x0) / expand(sigma)
