"""One row of the contract of published weights: an original class, and how to ask it.

The original has drawn arguments and weights by the rule of golden_files.py, none of
them zero. In the complete suite it is the class itself (tests/parity/originals.py), in
the quick one its recorded answers. Ours opens its folder; nothing of the loading is
special to the test.
"""

import dataclasses
import functools
import re
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from tests.support import golden_files
from vdm_jax import pretrained


@dataclasses.dataclass(frozen=True)
class Row:
  """Attributes:
  cls: the PyTorch class, "library.Class".
  draw: (rng) -> arguments of its config.
  compare: (theirs, module, params, rng, apply) -> [(ours, theirs)] on random inputs.
    `theirs` is called with NumPy arrays and gives {name: array}.
  spoil: regex of names; one of these tensors is changed in the negative control.
  name: of the row, where a class has several.
  seeds: how many configurations are drawn in the complete suite.
  recorded: seed of the configuration of the quick one.
  options: more arguments of the class, not of its config.
  """

  cls: str
  draw: Callable
  compare: Callable
  spoil: str = r"weight$"
  name: str = ""
  seeds: int = 5
  recorded: int = 0
  options: dict = dataclasses.field(default_factory=dict, hash=False)

  @property
  def title(self):
    return self.name or self.cls.partition(".")[2]

  def arguments(self, seed):
    """The drawn arguments of its config, an `Arguments`."""
    return Arguments(self.draw(np.random.default_rng([3, seed])))


class Arguments(dict):
  """A dict whose values are attributes too."""

  __getattr__ = dict.__getitem__


def of(rng, *values):
  """One of the values."""
  return values[rng.integers(len(values))]


def normal(rng, *shape):
  return rng.standard_normal(shape).astype(np.float32)


class Recorded:
  """An original that gives recorded answers in the order of its calls.

  Of a long answer some numbers are recorded; the others are NaN.
  """

  def __init__(self, row, arguments, answers):
    self.row, self.config, self._answers = row, arguments, iter(answers)

  def __call__(self, *args, **kwargs):
    return next(self._answers)

  def configure(self, change):
    """Nothing: the answers were recorded of the changed original."""


@dataclasses.dataclass
class Case:
  """An original, its folder and weights {name: array}, and ours opened from there."""

  row: Row
  seed: int
  ask: Callable  # () -> the original, which answers `row.compare` once
  read: Callable  # (folder of this class) -> {name: array}
  state: dict
  folder: Any
  module: Any
  params: Any
  apply: Callable | None

  def differences(self, params=None):
    """[(max|ours - theirs|, max|theirs|)] of each output."""
    rng = np.random.default_rng([7, self.seed])
    params = self.params if params is None else params
    out = []
    with jax.default_matmul_precision("highest"):
      pairs = self.row.compare(self.ask(), self.module, params, rng, self.apply)
      for ours, theirs in pairs:  # which may be a generator
        ours, theirs = np.asarray(ours), np.asarray(theirs)
        assert ours.shape == theirs.shape and ours.size
        assert np.isfinite(ours).all()
        known = ~np.isnan(theirs)
        ours, theirs = ours[known], theirs[known]
        assert theirs.std() > 1e-3
        out.append((float(np.abs(ours - theirs).max()), float(np.abs(theirs).max())))
    return out

  def error(self, params=None):
    """The largest difference, in units of the tolerance: equal means at most 1."""
    bound = lambda top: golden_files.TOLERANCE * max(1.0, top)
    return max(error / bound(top) for error, top in self.differences(params))


def opened(row, seed, ask, read, state, folder):
  """The Case of a published folder that is there."""
  module, params = pretrained.load(folder)
  apply = jitted(module) if isinstance(module, nn.Module) else None
  return Case(row, seed, ask, read, state, folder, module, params, apply)


@functools.lru_cache
def jitted(module):
  """`module.apply`, compiled once for each shape and method."""

  @functools.partial(jax.jit, static_argnames="method")
  def apply(params, *args, method=None):
    return module.apply(params, *args, **({"method": method} if method else {}))

  return apply


def spoiled(case):
  """(name, params) with one tensor of the original changed, chosen by the seed."""
  state = case.state
  names = [n for n, x in state.items() if re.search(case.row.spoil, n) and x.size > 1]
  name = names[np.random.default_rng([5, case.seed]).integers(len(names))]
  other = golden_files.fill(name, state[name].shape, 1000 + case.seed)
  params = pretrained.from_state_dict(case.module, state | {name: other})
  # An autoencoder's factor is its config's, which no state dict holds.
  kept = {k: case.params[k] for k in ("latents",) if k in case.params}
  # Placed as the case's, or every function of them would be compiled anew.
  place = lambda x, like: jax.device_put(x, like.sharding)
  return name, jax.tree.map(place, {**params, **kept}, case.params)


def faulty(case):
  """(state dict with three faults, [what an error must say of each])."""
  state = case.state
  names = [n for n in state if n.endswith("weight") and state[n].ndim > 1]
  missing, bent = names[0], names[-1]
  wrong = {k: v for k, v in state.items() if k != missing}
  wrong |= {bent: np.zeros((3, 5, 7), np.float32), "never.heard.of": np.ones(2)}
  said = ["never.heard.of is not of this model", f"{missing} is missing"]
  return wrong, said + [f"{bent} has shape (3, 5, 7)"] * (missing != bent)
