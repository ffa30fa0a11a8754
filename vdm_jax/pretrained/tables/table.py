"""A table of weights: how one published layout corresponds to one of our modules.

A new model is one file with a Table, and its line in registry.py.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping

import flax
import flax.linen as nn
import jax

# The last part of our parameters' names, where published ones have another.
ENDINGS = {
  "kernel": "weight",
  "scale": "weight",
  "table": "weight",
  "relative_k": "relative_position_k.embeddings_table",
  "relative_v": "relative_position_v.embeddings_table",
}
# {regex of our name, a space and the number of axes: einops pattern to ours}.
PATTERNS = {
  "kernel 2": "o i -> i o",
  "kernel 4": "o i h w -> h w i o",
  "kernel 5": "o i t h w -> t h w i o",
  " 1": "o -> o",
  " 2": "rows d -> rows d",
}
SIDE_BY_SIDE = {2: "two", 3: "three"}  # letters of q, k and v in one kernel


def _nothing(*_):
  return {}


def _axis_sizes(module):
  """Of the letters for q, k and v, for heads (n), and for a patch's sides (p, q)."""
  heads = getattr(module, "num_heads", None)
  side = getattr(module, "patch", None)
  return {"two": 2, "three": 3, "n": heads, "p": side, "q": side}


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Table:
  """One published layout of weights, and our module that computes the same.

  `shapes` below are {published name: shape} of a file, "our name" is the path of a
  parameter, "a/b/c". `names`, `buffers` and the like are functions of our module.

  Attributes:
    module_class: our class.
    names: module -> {our layer: its published name}, without the endings "/kernel" and
      ".weight", or {our parameter: its whole published name}. A tuple of names is
      stacked. It may name what the module lacks.
    inputs: (module, **widths) -> tuple, what the module is initialised with.
    widths: {argument of `inputs`: (regex of a weight [o, i, ...], i by default)}.
    patterns: module -> {regex of our name, a space and the number of axes: einops
      pattern from published to ours}, both of one layer of a stack; they come before
      the usual ones, such as {"kernel 2": "o i -> i o"}.
    fields: {field of the module, dotted for nested ones: the values that the layout
      has, or a function of the module that returns them}; others may be anything.
    classes: the original's classes, as its config.json names them.
    from_config: config.json as a dict -> module.
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
  names: Callable
  inputs: Callable
  widths: Mapping = dataclasses.field(default_factory=dict)
  patterns: Callable = _nothing
  fields: Mapping = dataclasses.field(default_factory=dict)
  classes: tuple[str, ...] = ()
  from_config: Callable | None = None
  to_config: Callable | None = None
  from_shapes: Callable = lambda shapes: None
  refine: Callable = lambda module, state_dict: module
  axis_sizes: Callable = _axis_sizes
  prefix: str = ""
  renames: tuple[tuple[str, str], ...] = ()
  ignored: tuple[str, ...] = ()
  aliases: Callable = _nothing
  constants: Callable = _nothing
  buffers: Callable = _nothing
  sized_buffers: Callable = _nothing
  input_size: Callable = lambda module, shapes: None

  def abstract_params(self, module, shapes=None):
    """The module's parameters as nested ShapeDtypeStructs, boxed with axis names.

    `shapes` are {published name: shape}, from which the widths of inputs are taken;
    None: the usual widths.
    """
    widths = {k: input_width(shapes or {}, *v) for k, v in self.widths.items()}
    return _abstract_params(self.inputs, module, tuple(widths.items()))

  def rules(self, module, shapes=None):
    """[(published name, our name "a/b/c", einops pattern)] of the module's parameters.

    A tuple of published names is stacked first; the pattern is from published to ours.
    They are the same for all `shapes`, those of `abstract_params`; with the ones given
    there the module is not traced again.
    """
    names, constants = self.names(module), self.constants(module, {})
    patterns, out = [*self.patterns(module).items(), *PATTERNS.items()], []
    for ours, leaf in flatten(self.abstract_params(module, shapes)).items():
      if ours in constants:
        continue
      layer, _, kind = ours.rpartition("/")
      if ours not in names and layer not in names:
        raise ValueError(f"{ours} has no name in this layout.")
      ending = ENDINGS.get(kind, kind)
      published = names.get(ours) or _with_ending(names[layer], ending)
      stacked = not isinstance(published, str)
      place = f"{ours} {len(leaf.shape) - stacked}"
      pattern = next(value for regex, value in patterns if re.search(regex, place))
      if stacked:
        pattern = _stacked_pattern(pattern, len(published) // leaf.shape[0])
      out.append((published, ours, pattern))
    return out

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

  def count_known(self, module, state_dict):
    """How many names of a state dict belong to layers that the layout names."""
    layers = {x for names in self.names(module).values() for x in as_tuple(names)}
    found = self.renamed(state_dict)
    return sum(name in layers or name.rpartition(".")[0] in layers for name in found)

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


@functools.lru_cache(maxsize=32)
def _abstract_params(inputs, module, widths):
  return init_shapes(module, *inputs(module, **dict(widths)))


def _stacked_pattern(pattern, many):
  """The pattern of a stack; in a layer of it are `many` published ones side by side."""
  left, right = pattern.split(" -> ")
  if many == 1:
    return f"l {left} -> l {right}"
  word = SIDE_BY_SIDE[many]
  left, right = left.replace("o", "(n d)"), right.replace("o", f"(n {word} d)")
  return f"(l {word}) {left} -> l {right}"


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
  """Parameters of a module initialised with `inputs`, as nested ShapeDtypeStructs.

  Of a linen module or an autoencoder; leaves are boxed with their logical axis names.
  """
  params = jax.eval_shape(module.init, jax.random.key(0), *inputs)
  return params["params"] if isinstance(module, nn.Module) else params


def stacked_names(published_prefix, our_prefix, names_in_block, numbers):
  """{our layer in a stack of blocks: tuple of its published names}.

  Args:
    published_prefix, our_prefix: of the published blocks and of our stack, without the
      dot before a block's number and the slash.
    names_in_block: {our layer: its published name in a block, or the names of several
      that are side by side in each head of ours}.
    numbers: of the published blocks.
  """
  return {
    f"{our_prefix}/{layer}": tuple(
      f"{published_prefix}.{i}.{name}" for i in numbers for name in as_tuple(names)
    )
    for layer, names in names_in_block.items()
  }


def prefix_names(our_prefix, published_prefix, names_inside):
  """{our layer: its published name, or a tuple} of the layers in a module.

  Args:
    our_prefix, published_prefix: the module's two names.
    names_inside: {our layer: its published name or names} in the module; "" is itself.
  """
  join = lambda mark, *parts: mark.join(part for part in parts if part)
  published = lambda name: join(".", published_prefix, name)
  return {
    join("/", our_prefix, layer): _map_names(published, names)
    for layer, names in names_inside.items()
  }


def _with_ending(names, ending):
  return _map_names(lambda name: f"{name}.{ending}", names)


def _map_names(function, names):
  """function(name), or a tuple of them for a tuple of names."""
  return function(names) if isinstance(names, str) else tuple(map(function, names))


def flatten(params):
  """{"a/b/c": leaf} of nested parameters, without their boxes of logical axis names."""
  flat = flax.traverse_util.flatten_dict(params, sep="/")
  box = nn.meta.AxisMetadata  # its unbox() would shard the leaf
  return {k: x.value if isinstance(x, box) else x for k, x in flat.items()}
