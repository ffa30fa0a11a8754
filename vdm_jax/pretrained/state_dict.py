"""State dicts of PyTorch code <-> parameters, by the rules of the model's Table.

Arrays may be tensor.Tensors, which are read one after the other; nothing unpickles.
"""

import contextlib
import re
from collections.abc import Mapping

import flax
import ml_dtypes
import numpy as np
from einops import EinopsError, rearrange

from vdm_jax.pretrained.formats import chunks, tensor
from vdm_jax.pretrained.tables import registry
from vdm_jax.pretrained.tables.table import as_tuple, flatten

# In which constants of published files may have been rounded.
ROUNDED = (
  *(np.float32, np.float16, ml_dtypes.bfloat16),
  *(ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e4m3fnuz),
  *(ml_dtypes.float8_e5m2, ml_dtypes.float8_e5m2fnuz),
)
# Of checkpoints: the first one found is taken.
WRAPPERS = ("ema", "model", "state_dict", "module", "_forward_module")
PREFIXES = tuple(f"{name}." for name in WRAPPERS)
MAX_LEVELS = 8  # a hostile file may wrap itself
EMA = "model_ema."
# Of torch.compile, FSDP and checkpointed activations, around any module.
TORCH_WRAPPERS = re.compile(
  r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)


def from_state_dict(module, state_dict):
  """Parameters of `module` from a PyTorch state dict: nested numpy arrays.

  Their dtype is the module's `param_dtype`.

  Args:
    state_dict: {published name: array}, perhaps wrapped: {"ema": {name: array}, ...}
      or with "ema.", "model.", "module." in front of every name, see `unwrap`.

  Raises:
    ValueError: one for all names that are missing, surplus or of a wrong shape, and
      for buffers that differ from ours.
  """
  state_dict = unwrap(state_dict)
  table = table_of(module, state_dict)
  state_dict = table.renamed(state_dict)
  shapes = checked_param_shapes(module, table, state_dict)
  params = {}
  for name, made in parameter_chunks(module, table, state_dict, shapes):
    with named_errors(name):
      params[name] = chunks.assemble(made, shapes[name].shape, module.param_dtype)
  params |= constant_params(module, table, {})
  return flax.traverse_util.unflatten_dict(params, sep="/")


def parameter_chunks(module, table, state_dict, shapes):
  """Yields (our name "a/b/c", chunks) for each parameter of `module`.

  Chunks are an iterator of (index of its first element, numpy array), read on demand.

  Args:
    table: the Table of the module's published layout.
    state_dict: {published name: array, or Tensor in a file}.
    shapes: {our name: anything with the parameter's `shape`}.
  """
  axis_sizes = table.axis_sizes(module)
  for names, ours, pattern in table.rules(module, shapes_of(state_dict)):
    arrays = [state_dict[name] for name in as_tuple(names)]
    yield ours, chunks.to_chunks(arrays, pattern, axis_sizes, shapes[ours].shape)


@contextlib.contextmanager
def named_errors(name):
  """A context whose WeightsErrors have the `name` of the parameter in front."""
  try:
    yield
  except tensor.WeightsError as error:
    raise tensor.WeightsError(f"{name} {error}") from error


def constant_params(module, table, config):
  """{our name "a/b/c": float32 array} of parameters that have no published array.

  Such as the scale of latents, which is in `config`, config.json as a dict or {}.
  """
  found = table.constants(module, config)
  return {k: np.asarray(x, np.float32) for k, x in found.items()}


def to_state_dict(module, params, *, size=None, ignored=None, table=None):
  """{published name: numpy array} of our parameters, as the PyTorch original loads it.

  Args:
    params: of `module`, a nested dict; leaves may be boxed with axis names.
    size: (T, H, W) of x. If given, the buffers of this size are added; the original
      needs them to load the weights strictly.
    ignored: {published name: array} of arrays that our module does not use; added as
      they are, for the same reason.
    table: the Table of the published layout, if several fit; None: the first.
  """
  table = table or table_of(module)
  flat = flatten(params)
  ignored = {name: np.asarray(x) for name, x in (ignored or {}).items()}
  problems = _differing_names(set(), set(ignored) - set(table.ignored))
  problems += param_problems(module, table, flat)
  raise_problems(module, problems)
  state_dict = dict(published_arrays(module, table, flat))
  checked_param_shapes(module, table, state_dict)
  buffers = table.sized_buffers(module, size) if size else {}
  copies = {name: state_dict[other] for name, other in table.aliases(module).items()}
  out = buffers | ignored | state_dict | copies
  return {k: np.ascontiguousarray(x) for k, x in out.items()}


def published_arrays(module, table, flat_params):
  """Yields (published name, numpy array) for parameters {our name "a/b/c": array}.

  One parameter is converted at a time, by the rules of the module's Table.
  """
  for names, ours, pattern in table.rules(module):
    x = _to_published(table, module, pattern, np.asarray(flat_params[ours]))
    yield from [(names, x)] if isinstance(names, str) else zip(names, x, strict=True)
  yield from table.buffers(module).items()


def param_problems(module, table, flat_params):
  """[sentence] on params {our name: array} that do not fit the module; [] if all do."""
  rules = table.rules(module)
  known = {ours for _, ours, _ in rules} | set(constant_params(module, table, {}))
  problems = _differing_names(known, set(flat_params))
  for names, ours, pattern in rules:
    if ours not in flat_params:
      continue
    view = np.broadcast_to(np.int8(0), flat_params[ours].shape)
    try:
      x = _to_published(table, module, pattern, view)
    except EinopsError:
      problems.append(f"{ours} has shape {view.shape}, which does not fit the module")
      continue
    if not isinstance(names, str) and len(x) != len(names):
      problems.append(f"{ours} stacks {len(x)} blocks, expected {len(names)}")
  return problems


def unwrap(state_dict):
  """The innermost {name: array} of a checkpoint; the average (ema) is preferred.

  Levels and prefixes "ema", "model", "state_dict" and "module" are removed, and the
  names of torch's own wrappers anywhere ("_orig_mod"). Where a checkpoint of latent
  diffusion has averages as "model_ema.NAMEWITHOUTDOTS", they replace the raw weights.

  WeightsError: averages of which there are no weights.
  """
  for _ in range(MAX_LEVELS):
    inside = [x for x in map(state_dict.get, WRAPPERS) if isinstance(x, Mapping)]
    if not inside:
      break
    state_dict = inside[0]
  state_dict = {TORCH_WRAPPERS.sub("", str(k)): x for k, x in state_dict.items()}
  state_dict = _averaged(state_dict)
  while state_dict and all(key.startswith(PREFIXES) for key in state_dict):
    prefix = next(p for p in PREFIXES if any(k.startswith(p) for k in state_dict))
    inside = {k: x for k, x in state_dict.items() if k.startswith(prefix)}
    state_dict = {k.removeprefix(prefix): x for k, x in inside.items()}
  return {k: tensor.as_array(x) for k, x in state_dict.items()}


def _averaged(state_dict):
  """The state dict with its averages, as LitEma names them, in place of raw weights.

  Source: CompVis/latent-diffusion (ldm/modules/ema.py).
  """
  ema = {k: x for k, x in state_dict.items() if k.startswith(EMA)}
  rest = {k: x for k, x in state_dict.items() if k not in ema}
  names = {EMA + k.removeprefix("model.").replace(".", ""): k for k in rest}
  lost = sorted(ema.keys() - names.keys() - {f"{EMA}decay", f"{EMA}num_updates"})
  if lost:
    raise tensor.WeightsError(
      f"{len(lost)} averages, such as {lost[0]}, are of no weight in the file."
    )
  return rest | {names[k]: x for k, x in ema.items() if k in names}


def table_of(module, state_dict=(), saved=False):
  """The Table (rules from published names to ours) that fits the module.

  Of several, the one with most names in common.

  Args:
    state_dict: {published name: array} to compare names with; (): the first Table.
    saved: whether the Table must be able to write a config.json.

  Raises:
    TypeError: no Table fits; lists the fields that differ.
  """
  own = [t for t in registry.TABLES if isinstance(module, t.module_class)]
  found = [t for t in own if t.fits(module) and (t.to_config or not saved)]
  if not found:
    differing = sorted((t.unsupported(module) for t in own), key=len)
    lines = [" and ".join(fields) for fields in differing if fields]
    classes = sorted({t.module_class.__name__ for t in registry.TABLES})
    raise TypeError(
      f"There is no table of weights for {type(module).__name__} with these fields:\n  "
      + ("\n  ".join(lines) or f"there are tables for {', '.join(classes)}")
    )
  if len(found) == 1 or not state_dict:
    return found[0]
  return max(found, key=lambda table: table.count_known(module, state_dict))


def shapes_of(state_dict):
  """{name: shape, a tuple of ints} of a dict of arrays."""
  return {name: tuple(x.shape) for name, x in state_dict.items()}


def checked_param_shapes(module, table, state_dict):
  """Checks a state dict; returns the parameters' {our name "a/b/c": ShapeDtypeStruct}.

  Args:
    module, table: a linen module or autoencoder, and the Table of its layout.
    state_dict: {published name: array}, without prefixes and by the newest names.

  Raises:
    ValueError: one that lists all problems of names, shapes and buffers.
  """
  found = shapes_of(state_dict)
  ours = flatten(table.abstract_params(module, found))
  expected = {}
  for names, name, pattern in table.rules(module, found):
    # A view of one number has the shape and costs no memory.
    view = np.broadcast_to(np.int8(0), ours[name].shape)
    shape = _to_published(table, module, pattern, view).shape
    one = isinstance(names, str)
    expected |= {names: shape} if one else dict.fromkeys(names, shape[1:])

  copies = table.aliases(module)
  expected |= {k: expected[other] for k, other in copies.items() if k in found}
  size = table.input_size(module, found)
  buffers = (table.sized_buffers(module, size) if size else {}) | table.buffers(module)
  problems = _differing_names(
    set(expected), set(found) - set(buffers) - set(table.ignored)
  )
  for name in sorted(found.keys() & (expected.keys() | buffers.keys())):
    if np.dtype(state_dict[name].dtype).kind == "c":
      problems.append(f"{name} has complex numbers")
  for name in sorted(expected.keys() & found.keys()):
    if found[name] != expected[name]:
      problems.append(f"{name} has shape {found[name]}, expected {expected[name]}")
  for name in sorted(buffers.keys() & found.keys()):
    problems += _differing_buffer(name, np.asarray(state_dict[name]), buffers[name])
  raise_problems(module, problems)
  raise_problems(module, tensor.copy_problems(state_dict, copies))
  return ours


def _differing_buffer(name, x, expected):
  """Problems of a buffer: it may be rounded to a type of which all its numbers are."""
  if x.shape != expected.shape:
    return [f"{name} has shape {x.shape}, expected {expected.shape}"]
  x = x.astype(np.float32)
  error = np.abs(x - expected)
  for dtype in ROUNDED:
    info = ml_dtypes.finfo(dtype)
    # Half a step of its numbers, and what a rounding to another type before may add.
    eps, least = float(info.eps), float(info.smallest_subnormal)
    step = np.maximum(eps * np.abs(expected), least)
    exact = np.array_equal(x.astype(dtype).astype(np.float32), x)
    if exact and np.all(error <= 1e-5 + 0.6 * step):
      return []
  return [f"{name} differs from the fixed sin-cos table by up to {error.max():.2g}"]


def _differing_names(expected, found):
  missing = [f"{name} is missing" for name in sorted(expected - found)]
  return missing + [f"{name} is not of this model" for name in sorted(found - expected)]


def raise_problems(module, problems):
  """Raises a ValueError with a list of sentences, if any, on weights for `module`."""
  if problems:
    name, lines = type(module).__name__, "\n  ".join(problems)
    raise ValueError(
      f"These weights do not fit {name}, {len(problems)} problems:\n  {lines}\n"
      "Give the module the fields of the weights, or take other weights."
    )


def inverse_pattern(pattern):
  """The inverse of an einops pattern: "o i -> i o" becomes "i o -> o i"."""
  return " -> ".join(reversed(pattern.split(" -> ")))


def _to_published(table, module, pattern, x):
  """Our parameter x as the published array, or as a stack of them."""
  letters = re.findall(r"\w+", pattern)
  sizes = {k: n for k, n in table.axis_sizes(module).items() if k in letters}
  return rearrange(x, inverse_pattern(pattern), **sizes)
