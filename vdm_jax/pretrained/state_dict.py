"""State dicts of PyTorch code <-> parameters, by one declarative table for each model.

A table is a module with these names; `latte.py` is an example, `tables.py` the list.

  CLASSES                the original's classes, as its config.json names them
  WANTED                 in words: the modules that it fits
  fits(module)           whether it is the table of this module
  module(config, found)  our module; config = their config.json, found = {name: shape}
  config(module, params) their config.json, the inverse
  rules(module)          [(their name or names, our name, einops pattern)]
  axes(module)           {axis: size} for axes that a pattern cannot tell from a shape
  shapes(module, found)  our parameters, abstract; found = {their name: shape}

and, where there is something to say,

  UNREAD                 their names of arrays that their network does not read, such
                         as what a conditioner gives for "no text"
  PART                   a regex: how its names begin in a file of several parts, of
                         which only this one is read; the match is cut off
  RENAMES                ((regex, replacement), ...) of names that older files have
  aliases(module)        {their name: their name}: copies of another array; they may be
                         absent from a file
  constants(module, config)  {our name: array}: parameters that no array of theirs
                         holds; config may be empty
  buffers(module)        {their name: array}: constants kept among the weights, which
                         may be absent from a file
  fixed(module, size)    the same, of those that depend on the size of x
  size_of(module, found) the size that their constants speak of
  guess(found)           our module from the shapes alone, or None

The inverse direction reads the same rules backwards. Arrays may stand in files and are
read one after the other; nothing here unpickles.
"""

import re
from collections.abc import Mapping

import flax
import flax.linen as nn
import numpy as np
from einops import EinopsError, rearrange

from vdm_jax.pretrained.formats import chunks, tensor
from vdm_jax.pretrained.tables import registry as tables

WRAPPERS = (
  "ema",
  "model",
  "state_dict",
  "module",
  "_forward_module",
)  # the first one found is taken


def from_state_dict(module, state_dict):
  """Parameters of `module`, a nested dict of numpy arrays in its `param_dtype`.

  Args:
    state_dict: {name: array}, perhaps wrapped: {"ema": {name: array}, ...} or with
      "ema.", "model.", "module." in front of every name.

  Raises:
    ValueError: one for all names that are missing, surplus or of a wrong shape, and
      for fixed tables that differ from ours.
  """
  theirs = unwrap(state_dict)
  table = table_of(module, theirs)
  theirs = renamed(table, theirs)
  shapes = check(module, table, theirs)
  params = {
    name: chunks.assemble(made, shapes[name].shape, module.param_dtype)
    for name, made in parts(module, table, theirs, shapes)
  }
  params |= constants(module, table, {})
  return flax.traverse_util.unflatten_dict(params, sep="/")


def parts(module, table, theirs, shapes):
  """Yields (our name, pieces of the parameter), reading as little as possible."""
  axes = table.axes(module)
  for names, ours, pattern in table.rules(module):
    names = (names,) if isinstance(names, str) else names
    arrays = [theirs[name] for name in names]
    yield ours, chunks.to_chunks(arrays, pattern, axes, shapes[ours].shape)


def constants(module, table, config):
  """{our name: array} of the parameters that no array of theirs holds."""
  found = _optional(table, "constants", module, config) or {}
  return {k: np.asarray(x, np.float32) for k, x in found.items()}


def to_state_dict(module, params, *, size=None, unread=None, table=None):
  """{their name: numpy array}, the inverse of `from_state_dict`, bit for bit.

  Args:
    params: a nested dict; leaves may be boxed with logical axis names.
    size: (T, H, W) of x. If given, their fixed position tables for this size are
      added; their code needs them to load the weights strictly.
    unread: {their name: array} for the names that the table leaves unread; added as
      they are, for the same reason.
    table: where several fit the module, which; the first by default.
  """
  table = table or table_of(module)
  flat = flatten(params)
  unread = {name: np.asarray(x) for name, x in (unread or {}).items()}
  problems = _difference(set(), set(unread) - set(_names(table, "UNREAD")))
  problems += unfitting(module, table, flat)
  raise_all(module, problems)
  theirs = dict(arrays(module, table, flat))
  check(module, table, theirs)
  fixed = _optional(table, "fixed", module, size) if size else {}
  copies = _optional(table, "aliases", module) or {}
  copies = {name: theirs[other] for name, other in copies.items()}
  found = (fixed or {}) | unread | theirs | copies
  return {k: np.ascontiguousarray(x) for k, x in found.items()}


def arrays(module, table, flat):
  """Yields (their name, array), one of our parameters at a time."""
  for names, ours, pattern in table.rules(module):
    x = _rearrange(np.asarray(flat[ours]), backwards(pattern), table.axes(module))
    yield from [(names, x)] if isinstance(names, str) else zip(names, x, strict=True)
  yield from (_optional(table, "buffers", module) or {}).items()


def unfitting(module, table, flat):
  """Problems of our own parameters, {"a/b/c": array}."""
  rules = table.rules(module)
  known = {ours for _, ours, _ in rules} | set(constants(module, table, {}))
  problems = _difference(known, set(flat))
  for names, ours, pattern in rules:
    if ours not in flat:
      continue
    view = np.broadcast_to(np.int8(0), flat[ours].shape)
    try:
      x = _rearrange(view, backwards(pattern), table.axes(module))
    except EinopsError:
      problems.append(f"{ours} has shape {view.shape}, which does not fit the module")
      continue
    if not isinstance(names, str) and len(x) != len(names):
      problems.append(f"{ours} stacks {len(x)} blocks, wanted {len(names)}")
  return problems


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
  return {k: tensor.as_array(x) for k, x in state_dict.items()}


def table_of(module, theirs=(), having=()):
  """The table that fits the module; of several, the one that shares most names.

  Args:
    having: names that a table must define.
  """
  found = [
    table
    for table in tables.TABLES
    if table.fits(module) and all(hasattr(table, name) for name in having)
  ]
  if not found:
    lines = "\n  ".join(table.WANTED for table in tables.TABLES)
    raise TypeError(
      f"There is no table of weights for {type(module).__name__} with these fields; "
      f"there are tables for:\n  {lines}"
    )
  if len(found) == 1 or not theirs:
    return found[0]
  shared = lambda table: len(
    _wanted_names(module, table) & renamed(table, theirs).keys()
  )
  return max(found, key=shared)


def renamed(table, theirs):
  """The same arrays, under the names that the table reads."""
  if hasattr(table, "PART"):
    own = {k: x for k, x in theirs.items() if re.match(table.PART, k)}
    theirs = {re.sub(f"^{table.PART}", "", k): x for k, x in own.items()} or theirs
  out = {}
  for name, x in theirs.items():
    for old, new in _names(table, "RENAMES"):
      name = re.sub(old, new, name)
    out[name] = x
  return out


def flatten(params):
  """{"a/b/c": leaf} without axis names, whatever mesh is in use."""
  flat = flax.traverse_util.flatten_dict(params, sep="/")
  box = nn.meta.AxisMetadata  # its unbox() would shard the leaf
  return {k: x.value if isinstance(x, box) else x for k, x in flat.items()}


def check(module, table, theirs):
  """Our parameters as shapes; one ValueError lists all in which `theirs` differs."""
  found = {name: tuple(x.shape) for name, x in theirs.items()}
  ours = flatten(table.shapes(module, found))
  wanted = {}
  for names, name, pattern in table.rules(module):
    # A view of one number has the shape and costs no memory.
    x = np.broadcast_to(np.int8(0), ours[name].shape)
    shape = _rearrange(x, backwards(pattern), table.axes(module)).shape
    one = isinstance(names, str)
    wanted |= {names: shape} if one else dict.fromkeys(names, shape[1:])

  copies = _optional(table, "aliases", module) or {}
  wanted |= {k: wanted[other] for k, other in copies.items() if k in found}
  size = _optional(table, "size_of", module, found)
  fixed = (size and _optional(table, "fixed", module, size)) or {}
  fixed = fixed | (_optional(table, "buffers", module) or {})
  known = set(fixed) | set(_names(table, "UNREAD"))
  problems = _difference(set(wanted), set(found) - known)
  for name in sorted(wanted.keys() & found.keys()):
    if found[name] != wanted[name]:
      problems.append(f"{name} has shape {found[name]}, wanted {wanted[name]}")
  for name in sorted(fixed.keys() & found.keys()):
    problems += _compare(name, np.asarray(theirs[name]), fixed[name])
  raise_all(module, problems)
  raise_all(module, tensor.different(theirs, copies))
  return ours


def _wanted_names(module, table):
  out = set()
  for names, _, _ in table.rules(module):
    out |= {names} if isinstance(names, str) else set(names)
  return out


def _names(table, field):
  return getattr(table, field, ())


def _optional(table, function, *arguments):
  return getattr(table, function, lambda *_: None)(*arguments)


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


def raise_all(module, problems):
  """Raises one ValueError if there are problems."""
  if problems:
    name, lines = type(module).__name__, "\n  ".join(problems)
    raise ValueError(
      f"These weights do not fit {name}, {len(problems)} problems:\n  {lines}\n"
      "Give the module the fields of the weights, or take other weights."
    )


def backwards(pattern):
  return " -> ".join(reversed(pattern.split(" -> ")))


def _rearrange(x, pattern, axes):
  letters = pattern.replace("(", " ").replace(")", " ").split()
  return rearrange(x, pattern, **{k: n for k, n in axes.items() if k in letters})
