"""One row of the contract of published weights: an original class, and how to ask it.

The original is made with drawn arguments and random weights, none of them zero, and
saved as it saves itself; ours opens that folder. Nothing of the loading is special to
the test.
"""

import dataclasses
import functools
import re
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import torch

from tests.support import golden_files
from vdm_jax import pretrained

torch.set_num_threads(1)


@dataclasses.dataclass(frozen=True)
class Original:
  """Attributes:
  cls: the PyTorch class.
  draw: (rng) -> arguments of its config.
  compare: (theirs, module, params, rng, apply) -> [(ours, wanted)] on random inputs.
  spoil: regex of names; one of these tensors is changed in the negative control.
  name: of the row, where a class has several.
  seeds: how many configurations are drawn.
  """

  cls: Any
  draw: Callable
  compare: Callable
  spoil: str = r"weight$"
  name: str = ""
  seeds: int = 5

  @property
  def title(self):
    return self.name or self.cls.__name__


@dataclasses.dataclass
class Case:
  """An original with random weights, its folder, and ours opened from it."""

  row: Original
  seed: int
  theirs: Any
  folder: Any
  module: Any
  params: Any
  apply: Callable | None

  def differences(self, params=None):
    """[(max|ours - wanted|, max|wanted|)] of each output."""
    rng = np.random.default_rng([7, self.seed])
    params = self.params if params is None else params
    with torch.no_grad(), jax.default_matmul_precision("highest"):
      pairs = self.row.compare(self.theirs, self.module, params, rng, self.apply)
      pairs = list(pairs)  # which may be a generator
    out = []
    for ours, wanted in pairs:
      ours, wanted = np.asarray(ours), np.asarray(wanted)
      assert ours.shape == wanted.shape and ours.size
      assert np.isfinite(ours).all() and wanted.std() > 1e-3
      out.append((float(np.abs(ours - wanted).max()), float(np.abs(wanted).max())))
    return out

  def error(self, params=None):
    """The largest difference, in units of the tolerance: equal means at most 1."""
    each = self.differences(params)
    return max(error / (golden_files.TOLERANCE * max(1.0, top)) for error, top in each)


def make(row, seed, folder):
  """The case of a row with the arguments that `seed` draws; writes `folder`."""
  arguments = row.draw(np.random.default_rng([3, seed]))
  torch.manual_seed(seed)
  if hasattr(row.cls, "config_class") and row.cls.config_class is not None:
    theirs = row.cls(row.cls.config_class(**arguments))
  else:
    theirs = row.cls(**arguments)
  theirs = theirs.eval()
  with torch.no_grad():
    for name, x in theirs.named_parameters():
      x.copy_(torch.from_numpy(golden_files.fill(name, tuple(x.shape), seed)))
  theirs.save_pretrained(folder)
  module, params = pretrained.load(folder)
  apply = jitted(module) if isinstance(module, nn.Module) else None
  return Case(row, seed, theirs, folder, module, params, apply)


@functools.lru_cache
def jitted(module):
  """`module.apply`, compiled once for each shape and method."""

  @functools.partial(jax.jit, static_argnames="method")
  def apply(params, *args, method=None):
    return module.apply(params, *args, **({"method": method} if method else {}))

  return apply


def spoiled(case):
  """(name, params) with one tensor of the original changed, chosen by the seed."""
  state = {k: v.numpy() for k, v in case.theirs.state_dict().items()}
  names = [n for n, x in state.items() if re.search(case.row.spoil, n) and x.size > 1]
  name = names[np.random.default_rng([5, case.seed]).integers(len(names))]
  other = golden_files.fill(name, state[name].shape, 1000 + case.seed)
  params = pretrained.from_state_dict(case.module, state | {name: other})
  # An autoencoder's factor is its config's, which no state dict holds.
  kept = {k: case.params[k] for k in ("latents",) if k in case.params}
  # Placed as the case's, or every function of them would be compiled anew.
  place = lambda x, like: jax.device_put(x, like.sharding)
  return name, jax.tree.map(place, {**params, **kept}, case.params)
