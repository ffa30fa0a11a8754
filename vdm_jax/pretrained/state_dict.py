"""State dicts of PyTorch code <-> parameters, by one declarative table for each model.

A table is a module with these names; `latte.py` is an example.

  fits(module)           whether it is the table of this module
  WANTED                 in words: the modules that it fits
  UNREAD                 their names of arrays that their network does not read, such
                         as what a conditioner gives for "no text"
  rules(module)          [(their name or names, our name, einops pattern)]
  axes(module)           {axis: size} for axes that a pattern cannot tell from a shape
  shapes(module, found)  our parameters, abstract; found = {their name: shape}
  fixed(module, size)    {their name: array}: constants kept among the weights
  size_of(module, found) the size that their constants speak of

The inverse direction reads the same rules backwards. Nothing here unpickles: read a
file with a safe reader and pass the dict of arrays.
"""

from collections.abc import Mapping

import flax
import flax.linen as nn
import numpy as np
from einops import EinopsError, rearrange

from vdm_jax.pretrained import latte, latte_t2v

TABLES = (latte, latte_t2v)
WRAPPERS = ("ema", "model", "state_dict", "module")  # the first one found is taken


def from_state_dict(module, state_dict):
  """Parameters of `module`, a nested dict of numpy arrays in its `param_dtype`.

  Args:
    state_dict: {name: array}, perhaps wrapped: {"ema": {name: array}, ...} or with
      "ema.", "model.", "module." in front of every name.

  Raises:
    ValueError: one for all names that are missing, surplus or of a wrong shape, and
      for fixed tables that differ from ours.
  """
  table = _table(module)
  theirs = {name: np.asarray(x) for name, x in unwrap(state_dict).items()}
  _check(module, table, theirs)

  params = {}
  for names, ours, pattern in table.rules(module):
    stacked = not isinstance(names, str)
    x = np.stack([theirs[n] for n in names]) if stacked else theirs[names]
    x = _rearrange(x, pattern, table.axes(module))
    params[ours] = np.array(x, dtype=module.param_dtype, order="C")
  return flax.traverse_util.unflatten_dict(params, sep="/")


def to_state_dict(module, params, *, size=None, unread=None):
  """{their name: numpy array}, the inverse of `from_state_dict`, bit for bit.

  Args:
    params: a nested dict; leaves may be boxed with logical axis names.
    size: (T, H, W) of x. If given, their fixed position tables for this size are
      added; their code needs them to load the weights strictly.
    unread: {their name: array} for the names that the table leaves unread; added as
      they are, for the same reason.
  """
  table = _table(module)
  flat = _flatten(params)
  rules = table.rules(module)
  problems = _difference({ours for _, ours, _ in rules}, set(flat))
  unread = {name: np.asarray(x) for name, x in (unread or {}).items()}
  problems += _difference(set(), set(unread) - set(table.UNREAD))
  theirs = {}
  for names, ours, pattern in rules:
    if ours not in flat:
      continue
    x = np.asarray(flat[ours])
    stacked = not isinstance(names, str)
    try:
      x = _rearrange(x, _backwards(pattern), table.axes(module))
    except EinopsError:
      problems.append(f"{ours} has shape {x.shape}, which does not fit the module")
      continue
    if stacked and len(x) != len(names):
      problems.append(f"{ours} stacks {len(x)} blocks, wanted {len(names)}")
      continue
    theirs |= dict(zip(names, x, strict=True)) if stacked else {names: x}
  _raise(module, problems)
  _check(module, table, theirs)
  fixed = table.fixed(module, size) if size else {}
  return {k: np.ascontiguousarray(x) for k, x in (fixed | unread | theirs).items()}


def unwrap(state_dict):
  """The innermost {name: array} of a checkpoint; the average (ema) is preferred."""
  for name in WRAPPERS:
    if isinstance(state_dict.get(name), Mapping):
      return unwrap(state_dict[name])
  prefixes = tuple(f"{name}." for name in WRAPPERS)
  if state_dict and all(key.startswith(prefixes) for key in state_dict):
    prefix = next(p for p in prefixes if any(k.startswith(p) for k in state_dict))
    inside = {k: x for k, x in state_dict.items() if k.startswith(prefix)}
    return unwrap({k.removeprefix(prefix): x for k, x in inside.items()})
  return state_dict


def _table(module):
  for table in TABLES:
    if table.fits(module):
      return table
  lines = "\n  ".join(table.WANTED for table in TABLES)
  raise TypeError(
    f"There is no table of weights for {type(module).__name__} with these fields; "
    f"there are tables for:\n  {lines}"
  )


def _flatten(params):
  """{"a/b/c": leaf} without axis names, whatever mesh is in use."""
  flat = flax.traverse_util.flatten_dict(params, sep="/")
  box = nn.meta.AxisMetadata  # its unbox() would shard the leaf
  return {k: x.value if isinstance(x, box) else x for k, x in flat.items()}


def _check(module, table, theirs):
  """Raises one ValueError that lists everything in which `theirs` is not the module."""
  found = {name: x.shape for name, x in theirs.items()}
  ours = _flatten(table.shapes(module, found))
  wanted = {}
  for names, name, pattern in table.rules(module):
    # A view of one number has the shape and costs no memory.
    x = np.broadcast_to(np.int8(0), ours[name].shape)
    shape = _rearrange(x, _backwards(pattern), table.axes(module)).shape
    one = isinstance(names, str)
    wanted |= {names: shape} if one else dict.fromkeys(names, shape[1:])

  fixed = table.fixed(module, table.size_of(module, found))
  problems = _difference(set(wanted), set(found) - set(fixed) - set(table.UNREAD))
  for name in sorted(wanted.keys() & found.keys()):
    if found[name] != wanted[name]:
      problems.append(f"{name} has shape {found[name]}, wanted {wanted[name]}")
  for name in sorted(fixed.keys() & found.keys()):
    problems += _compare(name, theirs[name], fixed[name])
  _raise(module, problems)


def _compare(name, x, table):
  """Problems of a fixed table, compared in the precision in which it was stored."""
  if x.shape != table.shape:
    return [f"{name} has shape {x.shape}, wanted {table.shape}"]
  error = np.abs(x.astype(np.float32) - table).max(initial=0.0)
  if not error <= max(1e-5, float(np.finfo(x.dtype).eps)):
    return [f"{name} differs from the fixed sin-cos table by up to {error:.2g}"]
  return []


def _difference(wanted, found):
  missing = [f"{name} is missing" for name in sorted(wanted - found)]
  return missing + [f"{name} is not of this model" for name in sorted(found - wanted)]


def _raise(module, problems):
  if problems:
    name, lines = type(module).__name__, "\n  ".join(problems)
    raise ValueError(
      f"These weights do not fit {name}, {len(problems)} problems:\n  {lines}\n"
      "Give the module the fields of the weights, or take other weights."
    )


def _backwards(pattern):
  return " -> ".join(reversed(pattern.split(" -> ")))


def _rearrange(x, pattern, axes):
  letters = pattern.replace("(", " ").replace(")", " ").split()
  return rearrange(x, pattern, **{k: n for k, n in axes.items() if k in letters})
