"""Published LoRAs -> the LoRA of a module in our names, or weights with it merged.

`factors_from_state_dict` gives what models/lora.py runs, trains on, or merges;
`merge_state_dict` merges under the published names. names.py lists the layouts of
files, adapter.py opens them.
"""

import re

import flax
import numpy as np
from einops import rearrange

from vdm_jax.models import lora
from vdm_jax.pretrained import state_dict
from vdm_jax.pretrained.lora import adapter
from vdm_jax.pretrained.lora import names as lora_names
from vdm_jax.pretrained.tables.table import as_tuple


def load(module, path, scale=1.0):
  """The LoRA of `module` from a file, a nested dict of float32 numpy arrays.

  At each kernel that it changes are "down" [..., i, R] and "up" [..., R, o], scaled: it
  is run or merged (models/lora.py) with scale 1.

  Args:
    module: the network that the LoRA is for.
    path: of the file, or of an adapter's folder.
    scale: of the product up @ down, times alpha / r where the file or the folder has
      an alpha.
  """
  return factors_from_state_dict(module, adapter.open_lora(path), scale)


def merge_file(params, *, path, module, scale=1.0):
  """Nested parameters with the LoRA in a file merged into them; for `init_from`.

  Args:
    params: of `module`, a nested dict of arrays.
    path: of the LoRA, a file or an adapter's folder; "" returns `params`.
    module: the network that the LoRA is for.
    scale: of the product up @ down.
  """
  return lora.merge(params, load(module, path, scale)) if path else params


def factors_from_state_dict(module, lora_state, scale=1.0):
  """The LoRA of `module` for models/lora.py, a nested dict of float32 numpy arrays.

  At each kernel that it changes are "down" [..., i, R] and "up" [..., R, o]. `up` holds
  the scale: the Lora that runs it has scale=1. Where one kernel of ours holds several
  published ones (q, k and v), R is the sum of their ranks.

  Args:
    module: the network that the LoRA is for.
    lora_state: {name: array} of the file, as `adapter.open_lora` reads AnimateDiff's,
      diffusers', peft's, kohya's.
    scale: of the product up @ down.

  Raises:
    ValueError: one for all names and shapes that do not fit the module.
  """
  target = type(module).__name__
  pairs, problems = lora_names.read_pairs_and_problems(lora_state)
  table = state_dict.table_of(module, pairs)
  known = table.published_names(module)
  pairs = lora_names.rename_to_known(table.renamed(pairs), known)
  lora_names.require_one_known(lora_state, pairs, known, target)
  problems += _unknown(pairs, known, target)

  shapes = {name: (len(p.up), *p.down.shape[1:]) for name, p in pairs.items()}
  specs, out = state_dict.flatten(table.abstract_params(module, shapes)), {}
  axis_sizes = table.axis_sizes(module)
  for names, ours, pattern in table.rules(module):
    names = as_tuple(names)
    found = {name: pairs[name] for name in names if name in pairs}
    if not found:
      continue
    kernel = LoraKernel(names, pattern, axis_sizes, tuple(specs[ours].shape))
    found, wrong = _fit(found, kernel.published_shape())
    problems += wrong
    if not kernel.is_factorable():
      problems += [f"{n} cannot be run, only merged (merge_state_dict)" for n in found]
    if not problems:
      out[f"{ours}/down"], out[f"{ours}/up"] = kernel.factors(found, scale)
  lora_names.raise_problems(target, problems)
  return flax.traverse_util.unflatten_dict(out, sep="/")


def merge_state_dict(state, lora_state, scale=1.0):
  """{published name: array}: W + scale * up @ down, in the dtype of each W.

  The sum is made in float32. What the LoRA does not change is not read.

  Args:
    state: {published name: W, an array or a Tensor in a file}.
    lora_state: {name: array} of the file, as `adapter.open_lora` reads AnimateDiff's,
      diffusers', peft's, kohya's.
    scale: of the product up @ down.

  Raises:
    ValueError: one for all names and shapes that do not fit the state dict.
  """
  target, out = "the state dict", state_dict.unwrap(state)
  pairs, problems = lora_names.read_pairs_and_problems(lora_state)
  pairs = lora_names.rename_to_known(pairs, out)
  lora_names.require_one_known(lora_state, pairs, out, target)
  problems += _unknown(pairs, out, target)
  fitted = {}
  for name in pairs.keys() & out.keys():
    found, wrong = _fit({name: pairs[name]}, tuple(out[name].shape))
    fitted |= found
    problems += wrong
  lora_names.raise_problems(target, problems)
  for name, pair in fitted.items():
    w = np.asarray(out[name])
    product = (pair.up @ pair.down.reshape(len(pair.down), -1)).reshape(w.shape)
    out[name] = (w.astype(np.float32) + scale * pair.factor * product).astype(w.dtype)
  return out


class LoraKernel:
  """A kernel of ours, and the published weights [o, i, ...] that it is made of.

  Args:
    names: of the published weights, a tuple; several are stacked (q, k and v, layers).
    pattern: einops, from the published weights to the kernel.
    axis_sizes: {letter of the pattern: size}.
    shape: of our kernel, a tuple.
  """

  def __init__(self, names, pattern, axis_sizes, shape):
    self.names, self.pattern, self.shape = names, pattern, shape
    self.left, self.right = (
      re.findall(r"\(.*?\)|\S+", side) for side in pattern.split("->")
    )
    self.stacked = re.search(r"\bl\b", pattern) is not None
    grouped = " ".join(re.findall(r"\((.*?)\)", pattern)).split()
    self.axes = {k: n for k, n in axis_sizes.items() if k in grouped}

  def published_shape(self):
    """The shape (o, i, ...) of one of the published weights."""
    # A view of one number has the shape and costs no memory.
    view = np.broadcast_to(np.int8(0), self.shape)
    published = rearrange(view, state_dict.inverse_pattern(self.pattern), **self.axes)
    return published.shape[self.stacked :]

  def is_factorable(self):
    """Whether a LoRA of the published weights is a LoRA of our kernel; a bool.

    It is where the input i is an axis of the kernel, next to last.
    """
    _, i, *pixels = self.left[self.stacked :]
    return [i, *self.right[-2:-1]] == ["i", "i"] and set(self.right[:-2]) <= {
      "l",
      *pixels,
    }

  def factors(self, pairs, scale):
    """(down [..., i, R], up [..., R, o]) of our kernel, float32 numpy arrays.

    Each published weight has its own part of R, which is as long as the layer with most
    ranks needs. The output axis goes where the pattern sends it; i stays an axis.

    Args:
      pairs: {published name: LoraPair}; names may be absent.
      scale: of the product.
    """
    depth = self.shape[self.right.index("l")] if "l" in self.right else 1
    each = len(self.names) // depth
    ranks = [len(pairs[n].down) if n in pairs else 0 for n in self.names]
    total = max(sum(ranks[k : k + each]) for k in range(0, len(ranks), each))
    o, i, *pixels = self.published_shape()
    down = np.zeros((depth, total, i, *pixels), np.float32)
    up = np.zeros((len(self.names), o, total), np.float32)
    for k, name in enumerate(self.names):
      if name in pairs:
        pair, start = pairs[name], sum(ranks[k - k % each : k])
        down[k // each, start : start + ranks[k]] = pair.down
        up[k, :, start : start + ranks[k]] = scale * pair.factor * pair.up

    up = up.reshape(*up.shape, *(1 for _ in pixels))
    up = up if self.stacked else up[0]
    layers = ["l"] if "l" in self.right else []
    read = [*layers, "r", *self.left[self.stacked + 1 :]]
    pattern = f"{' '.join(read)} -> {' '.join([*self.right[:-1], 'r'])}"
    down = rearrange(down if layers else down[0], pattern)
    return down, rearrange(up, self.pattern, **self.axes)


def _fit(pairs, shape):
  """({name: Pair fitted to W's shape}, problems)."""
  fitted = {name: pair.reshaped(shape) for name, pair in pairs.items()}
  problems = [
    f"{name}: up {pairs[name].up.shape} and down {pairs[name].down.shape} are no "
    f"product of shape {shape}"
    for name, pair in fitted.items()
    if pair is None
  ]
  return fitted, problems


def _unknown(names, known, target):
  return [
    f"{name} is no weight of {target}" for name in sorted(set(names) - set(known))
  ]
