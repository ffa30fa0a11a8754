"""A table of weights: how one published layout corresponds to one of our modules.

A published name is that of an array in the state dict of the original PyTorch code; our
name is the path of a parameter, "a/b/c". A new model is one file with a Table, and its
line in registry.py.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping

import jax


def _nothing(*_):
  return {}


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Table:
  """The correspondence; `shapes` below are {published name: shape} of a file.

  Attributes:
    module_class: our class.
    fields: {field of the module, dotted for nested ones: the values that the layout
      has, or a function of the module that returns them}; others may be anything.
    rules: module -> [(published name, or a tuple of them whose arrays are stacked
      first, our name, einops pattern from published to ours)].
    abstract_params: (module, shapes) -> the parameters as nested ShapeDtypeStructs,
      boxed with their axis names; widths of inputs are taken from `shapes`.
    classes: the original's classes, as its config.json names them.
    from_config: (config.json as a dict, shapes) -> module.
    to_config: (module, params) -> config.json as a dict.
    from_shapes: shapes -> module, or None if they are of something else.
    refine: (module, state dict) -> module, where only values tell its fields.
    axis_sizes: module -> {letter: size}, of letters that a shape does not determine.
    prefix: a regex, how the names begin in a file of several models; it is removed.
    renames: (regex, replacement) pairs from names in older files to these.
    ignored: published names of arrays that the network does not use.
    aliases: module -> {published name: published name of which it is a copy}; files
      may leave them out.
    constants: (module, config) -> {our name: array}, of parameters that no published
      array holds; config may be {}.
    buffers: module -> {published name: array}, of constants among the weights; files
      may leave them out.
    sized_buffers: (module, (T, H, W) of x) -> the same, of those that depend on it.
    input_size: (module, shapes) -> (T, H, W) of x of which a file's buffers are.
  """

  module_class: type
  rules: Callable
  abstract_params: Callable
  fields: Mapping = dataclasses.field(default_factory=dict)
  classes: tuple[str, ...] = ()
  from_config: Callable | None = None
  to_config: Callable | None = None
  from_shapes: Callable = lambda shapes: None
  refine: Callable = lambda module, state_dict: module
  axis_sizes: Callable = _nothing
  prefix: str = ""
  renames: tuple[tuple[str, str], ...] = ()
  ignored: tuple[str, ...] = ()
  aliases: Callable = _nothing
  constants: Callable = _nothing
  buffers: Callable = _nothing
  sized_buffers: Callable = _nothing
  input_size: Callable = lambda module, shapes: None

  def unsupported(self, module):
    """["field=value; supported: ..."] of a module of `module_class`; [] if it fits."""
    out = []
    for field, values in self.fields.items():
      value = module
      for name in field.split("."):
        value = None if value is None else getattr(value, name)
      values = values(module) if callable(values) else values
      if value not in values:
        out.append(f"{field}={value!r}; supported: {_listed(values)}")
    return out

  def fits(self, module):
    """Whether this is a layout of the module."""
    return isinstance(module, self.module_class) and not self.unsupported(module)

  def published_names(self, module):
    """The set of published names that the parameters of `module` are made of."""
    return {name for names, _, _ in self.rules(module) for name in as_tuple(names)}

  def renamed(self, state_dict):
    """{name: array}: the same arrays, without `prefix` and by the newest names."""
    if self.prefix:
      own = {k: x for k, x in state_dict.items() if re.match(self.prefix, k)}
      own = {re.sub(f"^{self.prefix}", "", k): x for k, x in own.items()}
      state_dict = own or state_dict
    out = {}
    for name, x in state_dict.items():
      for old, new in self.renames:
        name = re.sub(old, new, name)
      out[name] = x
    return out


def _listed(values):
  return repr(values) if isinstance(values, range) else ", ".join(map(repr, values))


def as_tuple(names):
  """The published names of a rule as a tuple of strings."""
  return (names,) if isinstance(names, str) else names


def input_width(shapes, pattern, default):
  """Axis 1, the input's, of the first weight whose name matches; else `default`.

  Args:
    shapes: {published name: shape}.
    pattern: a regex for the name.
  """
  for name, shape in shapes.items():
    if len(shape) > 1 and re.search(pattern, name):
      return shape[1]
  return default


def init_shapes(module, *inputs):
  """The parameters of a linen module called on `inputs`: ShapeDtypeStructs, boxed."""
  init = lambda key: module.init(key, *inputs)["params"]
  return jax.eval_shape(init, jax.random.key(0))
