"""Processes whose times are those of diffusers' solvers: ratios, and whole steps."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from vdm_jax.diffusion import process as p

# How a network of whole steps sees a time between two of them: the part of a step.
ROUNDINGS = {"none": lambda part: part, "nearest": jnp.round, "down": jnp.floor}


@dataclasses.dataclass(frozen=True)
class SigmaTable:
  """A process on a table of noise levels; its time t is the ratio sigma / alpha.

  For grids of sigmas (Karras') and a network that was trained at a table's steps: the
  network's time is the index of t among `ratios`. x is what it was in training, alpha
  = 1 / sqrt(1 + t^2), or "exploding" x / alpha, with alpha = 1, scaled back for the
  network. The same steps in either: DDIM's and those in log SNR do not change.

  Attributes:
    ratios: sigma / alpha of the indices 0, 1 .. in training, increasing.
    t_max: the largest ratio of a grid.
    exploding: whether x is divided by alpha.
    log_index: whether the index is interpolated in log t, in place of t.
    rounding: of the index, a name in ROUNDINGS.
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
    """(alpha, sigma) of the shape of t, both >= process.FLOOR."""
    t = jnp.asarray(t, float)
    alpha = jnp.ones_like(t) if self.exploding else 1.0 / jnp.sqrt(1.0 + t**2)
    return jnp.maximum(alpha, p.FLOOR), jnp.maximum(t * alpha, p.FLOOR)

  def rates(self, t):
    """(d alpha / dt, d sigma / dt) of the shape of t."""
    if self.exploding:
      return jnp.zeros_like(t), jnp.ones_like(t)
    alpha = 1.0 / jnp.sqrt(1.0 + jnp.asarray(t, float) ** 2)
    return -t * alpha**3, alpha**3

  def network_inputs(self, x_t, t):
    """(x [B, T, H, W, C] of unit variance, index in the table [B, T] float)."""
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
class WholeStepFlow(p.Flow):
  """process.Flow whose network's time is rounded down, as in DPM-Solver and UniPC.

  UniPC's grid starts at t = 1 - 1e-6, so alpha has a lower floor here.
  """

  floor: float = 1e-7

  def alpha_sigma(self, t):
    """(1 - t, t), both >= `floor`."""
    t = jnp.asarray(t, float)
    return jnp.maximum(1.0 - t, self.floor), jnp.maximum(t, self.floor)

  def network_inputs(self, x_t, t):
    """(x_t, the whole part of `scale` t [B, T])."""
    return x_t, jnp.floor(self.scale * t)
