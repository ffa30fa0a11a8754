"""A table of weights: how one published layout corresponds to one of our modules.

A new model is one file with a Table, and its line in registry.py.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping

import jax


def _nothing(*_):
  return {}


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Table:
  """One published layout of weights, and our module that computes the same.

  `shapes` below are {published name: shape} of a file, "our name" is the path of a
  parameter, "a/b/c". `rules`, `buffers` and the like are functions of our module.

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
    refine: (module, state dict) -> module, where only values decide on its fields.
    axis_sizes: module -> {letter: size}, of the letters in patterns that an array's
      shape does not determine.
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
    input_size: (module, shapes) -> (T, H, W) of x that a file's buffers are made for.
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
    """["field=value; supported: ..."] of the module's fields that the layout lacks."""
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
    """Whether `module` is of this layout's class, with values that the layout has."""
    return isinstance(module, self.module_class) and not self.unsupported(module)

  def published_names(self, module):
    """The set of published names whose arrays are parameters of `module`."""
    return {name for names, _, _ in self.rules(module) for name in as_tuple(names)}

  def renamed(self, state_dict):
    """{published name: array} without `prefix`, older names replaced by newer ones."""
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
  """A str as a tuple of one, a tuple of str as it is: the published names of a rule."""
  return (names,) if isinstance(names, str) else names


def input_width(shapes, pattern, default):
  """The input channels of a weight [o, i, ...], an int; `default` if no name matches.

  Args:
    shapes: {published name: shape}.
    pattern: a regex; the first name of a weight in which it is found is taken.
    default: what is returned if there is none.
  """
  for name, shape in shapes.items():
    if len(shape) > 1 and re.search(pattern, name):
      return shape[1]
  return default


def init_shapes(module, *inputs):
  """Parameters of a linen module called on `inputs`, as nested ShapeDtypeStructs.

  Leaves are boxed with their logical axis names.
  """
  init = lambda key: module.init(key, *inputs)["params"]
  return jax.eval_shape(init, jax.random.key(0))
