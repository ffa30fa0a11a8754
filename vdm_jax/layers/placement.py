"""Sharding constraints of activations, by the logical names of their axes.

`constrain` is flax's `with_logical_constraint`, but splits an axis evenly or
not at all.

Where a layout changes, name both, the old one first: constrain(constrain(x, old), new).
The gradient then changes back at the same point. Left to choose, the compiler takes its
own ways through the backward pass, with many more all-to-alls and gathered features;
and in jax 0.10.2 the gradient of weights was wrong where the two factors of a product
came in two layouts, of a batch and a sequence that are both split.
"""

import math

import jax
from flax.linen import spmd
from jax.sharding import PartitionSpec as P


def constrain(x, names, min_sizes=None):
  """x with a sharding constraint by logical axis names; x itself without mesh or rules.

  Args:
    names: for each axis of x a logical name, several of them, or None, which is whole.
      An axis is split over the mesh axes that its names' rules give, in turn: those
      that are not in use by an earlier axis of x, and divide what is left of its size.
    min_sizes: for each axis of x, the least size that a device holds; 1 if None.
  """
  found = mesh_axes(x.shape, names, min_sizes)
  if found is None:
    return x
  return jax.lax.with_sharding_constraint(x, P(*(axes or None for axes in found)))


def num_shards(size, name):
  """The number of shards of an axis of that size and logical name, an int.

  By the mesh and the rules that are in use, see sharding.use_mesh; 1 without.
  """
  found = mesh_axes((size,), (name,))
  sizes = jax.sharding.get_abstract_mesh().shape
  return 1 if found is None else math.prod(sizes[axis] for axis in found[0])


def mesh_axes(shape, names, min_sizes=None):
  """The mesh axes that split each axis of an array: a list of tuples of names.

  () is an axis that stays whole; the result is None without a mesh or rules. For each
  axis there is in `names` a logical name, a tuple of several, or None, and in min_sizes
  the least size that a device holds, 1 if None.
  """
  axes = _axes_of(names)
  if axes is None:
    return None
  sizes, used, all_found = jax.sharding.get_abstract_mesh().shape, set(), []
  min_sizes = (1,) * len(shape) if min_sizes is None else min_sizes
  for left, wanted, enough in zip(shape, axes, min_sizes, strict=True):
    found = []
    for axis in wanted:
      each, rest = divmod(left, sizes[axis])
      if axis not in used and axis not in found and not rest and each >= enough:
        found.append(axis)
        left = each
    used |= set(found)
    all_found.append(tuple(found))
  return all_found


def _axes_of(names):
  """For each of the names the mesh axes of its rules; None without mesh or rules."""
  rules = spmd.get_logical_axis_rules()
  if not rules or jax.sharding.get_abstract_mesh().empty:
    return None
  table = {}
  for name, axes in rules:
    table.setdefault(name, (axes,) if isinstance(axes, str) else tuple(axes or ()))
  several = lambda name: name if isinstance(name, tuple) else (name,)
  return [sum((table.get(n, ()) for n in several(name)), ()) for name in names]
