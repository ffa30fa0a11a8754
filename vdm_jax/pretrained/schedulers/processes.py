"""Processes whose times are those of diffusers' solvers: ratios, and whole steps."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from vdm_jax.diffusion import process as p

# How a network of whole steps sees a time between two of them: the part of a step.
ROUNDINGS = {"none": lambda part: part, "nearest": jnp.round, "down": jnp.floor}


@dataclasses.dataclass(frozen=True)
class SigmaTableProcess:
  """A process whose time t is the ratio sigma / alpha, with a table of noise levels.

  For grids of sigmas (Karras') and a network that was trained at a table's steps: the
  network's time is the index of t in the table. With alpha = 1 / sqrt(1 + t^2) x has
  unit variance as in training; "exploding" is x / alpha, with alpha = 1, scaled back
  for the network. DDIM and solvers in log SNR take the same steps in either.

  Attributes:
    ratios: sigma / alpha of the indices 0, 1 .. in training, increasing.
    t_max: the largest ratio of a grid.
    exploding: whether x is divided by alpha.
    log_index: whether the index is interpolated in log t, in place of t.
    rounding: of the index: "none", "nearest" or "down".
  """

  ratios: tuple[float, ...] = dataclasses.field(repr=False)
  t_max: float
  exploding: bool = True
  log_index: bool = False
  rounding: str = "none"

  def __post_init__(self):
    if self.rounding not in ROUNDINGS:
      raise ValueError(f"rounding={self.rounding!r}; expected one of {set(ROUNDINGS)}.")
    if len(self.ratios) < 2 or (np.diff(self.ratios) <= 0).any():
      raise ValueError("The ratios must be two or more and increase.")

  def alpha_sigma(self, t):
    """(alpha, sigma) of x_t = alpha x0 + sigma eps at times t, each shaped like t."""
    t = jnp.asarray(t, float)
    alpha = jnp.ones_like(t) if self.exploding else 1.0 / jnp.sqrt(1.0 + t**2)
    return jnp.maximum(alpha, p.FLOOR), jnp.maximum(t * alpha, p.FLOOR)

  def rates(self, t):
    """(d alpha / dt, d sigma / dt) at times t, each shaped like t."""
    if self.exploding:
      return jnp.zeros_like(t), jnp.ones_like(t)
    alpha = 1.0 / jnp.sqrt(1.0 + jnp.asarray(t, float) ** 2)
    return -t * alpha**3, alpha**3

  def network_inputs(self, x_t, t):
    """What the network gets: (x of unit variance, float index of t in the table).

    Args:
      x_t: [B, T, H, W, C].
      t: [B, T].
    """
    if self.exploding:
      x_t = p.expand(1.0 / jnp.sqrt(1.0 + t**2)) * x_t
    return x_t, self._index(t)

  def _index(self, t):
    table = np.asarray(self.ratios)
    t = jnp.maximum(t, table[0])
    i = jnp.searchsorted(jnp.asarray(table, float), t, side="right") - 1
    i = jnp.clip(i, 0, len(table) - 2)
    low, width = (jnp.asarray(x, float)[i] for x in (table[:-1], np.diff(table)))
    part = (t - low) / width
    if self.log_index:
      part = jnp.log1p((t - low) / low) / jnp.asarray(np.diff(np.log(table)), float)[i]
    # Rounded before it is added: near 1000, float32 has few digits left for it.
    return i + ROUNDINGS[self.rounding](jnp.clip(part, 0.0, 1.0))


@dataclasses.dataclass(frozen=True)
class RoundedTimeFlow(p.Flow):
  """Rectified flow x_t = (1 - t) x0 + t eps; the network's time is rounded down.

  As in diffusers' DPM-Solver and UniPC.

  Attributes:
    floor: the least alpha and sigma; UniPC's grid starts at t = 1 - 1e-6.
    scale: of the network's time, which is the whole part of scale * t.
  """

  floor: float = 1e-7

  def alpha_sigma(self, t):
    """(1 - t, t), each shaped like t and at least `floor`."""
    t = jnp.asarray(t, float)
    return jnp.maximum(1.0 - t, self.floor), jnp.maximum(t, self.floor)

  def network_inputs(self, x_t, t):
    """(x_t [B, T, H, W, C], whole part of scale * t [B, T]), for the network."""
    return x_t, jnp.floor(self.scale * t)
