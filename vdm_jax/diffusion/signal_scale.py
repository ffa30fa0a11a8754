"""A process with a scaled signal, x_t = s(t) alpha(t) x0 + sigma(t) eps.

alpha and sigma are those of DDPM, and eps is predicted as there; every time past the
first has less signal for its noise. In the code of https://arxiv.org/abs/2310.19512.
"""

import dataclasses

import jax.numpy as jnp

from vdm_jax.diffusion import process as p


@dataclasses.dataclass(frozen=True)
class SignalScaledProcess:
  """The process `base` with alpha multiplied by s(t): VideoCrafter's `use_scale`.

  s falls linearly over the published indices k = t - 1 from 1 at 0 to `scale` at
  `steps` - 1, and stays there. Variance is not preserved.

  Attributes:
    base: a DDPM; DDIM's noise is that of the base (variance.ddim_variance).
    scale: 0.7 in VideoCrafter 2, 0.3 in VideoCrafter 1 at 576 x 1024.
    steps: over which s falls.
  """

  base: p.DDPM
  scale: float = 0.7
  steps: int = 400

  def __post_init__(self):
    if not 0.0 < self.scale <= 1.0:
      raise ValueError(f"scale={self.scale}; the signal is scaled by a part of (0, 1].")
    if not 2 <= self.steps <= self.num_steps:
      raise ValueError(
        f"steps={self.steps}; the scale falls over 2 to {self.num_steps} steps of the "
        "base."
      )

  @property
  def num_steps(self):
    """Number of steps of the base."""
    return self.base.num_steps

  @property
  def t_max(self):
    """The noisiest time, that of the base."""
    return self.base.t_max

  def signal(self, t):
    """The factor s(t) of the signal, of t's shape."""
    k = jnp.clip(jnp.asarray(t, float) - 1.0, 0.0, self.steps - 1.0)
    return 1.0 + (self.scale - 1.0) * k / (self.steps - 1.0)

  def alpha_sigma(self, t):
    """(s alpha, sigma) of times t, each of t's shape and >= 1e-5."""
    alpha, sigma = self.base.alpha_sigma(t)
    return jnp.maximum(self.signal(t) * alpha, p.FLOOR), sigma

  def rates(self, t):
    """The derivatives in t of (s alpha, sigma), each of t's shape."""
    t = jnp.asarray(t, float)
    alpha, _ = self.base.alpha_sigma(t)
    alpha_rate, sigma_rate = self.base.rates(t)
    falls = (1.0 < t) & (t <= self.steps)  # the slope of the step that ends at t
    slope = jnp.where(falls, (self.scale - 1.0) / (self.steps - 1.0), 0.0)
    return slope * alpha + self.signal(t) * alpha_rate, sigma_rate

  def network_inputs(self, x_t, t):
    """(x_t, published index t - 1): the network's inputs at times t [B, T]."""
    return self.base.network_inputs(x_t, t)
