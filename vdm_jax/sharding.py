"""Mesh and logical axis rules: the only place that knows what a device is.

A config names the mesh, `dict(data=-1, fsdp=1, seq=1, tensor=1)`, and the rules from
logical axis to mesh axis, `(("batch", ("data", "fsdp")), ("embed", "fsdp"), ...)`.
Layers name their axes (`nn.with_logical_partitioning`); a parameter without names
falls to one rule: its largest divisible axis over `fsdp` if it is over 4 MiB.
"""

import contextlib
import difflib
import math

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

MIN_BYTES = 4 * 2**20  # smaller parameters without names are replicated


def make_mesh(axes, devices=None):
  """A mesh of `devices` (all of them by default).

  Args:
    axes: {name: size}, slowest first. One size may be -1: it takes what is left.

  Raises:
    ValueError: if the sizes do not multiply to the number of devices.
  """
  devices = jax.devices() if devices is None else devices
  axes = dict(axes)
  bad = {k: v for k, v in axes.items() if v != -1 and v < 1}
  if bad or not axes or list(axes.values()).count(-1) > 1:
    raise ValueError(
      f"mesh={axes}: each axis must be a positive size, and at most one may be -1 "
      "(it takes the devices that are left)."
    )
  fixed = math.prod(v for v in axes.values() if v != -1)
  left = len(devices) // fixed
  shape = tuple(left if v == -1 else v for v in axes.values())
  if math.prod(shape) != len(devices):
    wanted = f"a multiple of {fixed}" if -1 in axes.values() else f"{fixed}"
    raise ValueError(
      f"mesh={axes} needs {wanted} devices, there are {len(devices)}; use -1 for one "
      f"axis, or sizes that multiply to {len(devices)}."
    )
  # Auto: the compiler spreads shardings from our constraints. (Explicit, JAX's
  # default, would make every reshape ask for one, and linen does not answer.)
  auto = (jax.sharding.AxisType.Auto,) * len(shape)
  return jax.make_mesh(shape, tuple(axes), devices=devices, axis_types=auto)


@contextlib.contextmanager
def use(mesh, rules):
  """The context in which layers' `with_logical_constraint` mean this mesh."""
  rules = check_rules(rules, mesh)
  with jax.set_mesh(mesh), nn.logical_axis_rules(rules):
    yield


def check_rules(rules, mesh):
  """Rules as ((name, (mesh axis, ...)), ...); refuses axes that the mesh lacks."""
  pairs = rules.items() if hasattr(rules, "items") else rules
  out = []
  for name, axes in pairs:
    axes = (axes,) if isinstance(axes, str) else tuple(axes or ())
    for axis in axes:
      if axis not in mesh.shape:
        near = difflib.get_close_matches(axis, mesh.axis_names, 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(
          f"rule ({name!r}, {axes}) names the mesh axis {axis!r}; the mesh has "
          f"{mesh.axis_names}.{hint}"
        )
    out.append((name, axes))
  return tuple(out)


def replicated(mesh):
  return NamedSharding(mesh, P())


def unbox(tree):
  """The tree without flax's axis names."""
  return jax.tree.map(
    lambda leaf: leaf.value if _is_boxed(leaf) else leaf, tree, is_leaf=_is_boxed
  )


def shard_tree(shapes, mesh, rules, min_bytes=MIN_BYTES):
  """NamedShardings for parameters, in the tree of `unbox(shapes)`.

  Args:
    shapes: the abstract pytree that `jax.eval_shape` gives; leaves may be boxed by
      `nn.with_logical_partitioning`. A name takes its first rule whose mesh axes are
      still free in this array and divide its size; else that axis is whole.
    min_bytes: from this size on, a parameter without names is split over `fsdp`.
  """
  rules = check_rules(rules, mesh)

  def sharding(leaf):
    if _is_boxed(leaf):
      return NamedSharding(mesh, _by_names(leaf, mesh, rules))
    return NamedSharding(mesh, _by_size(leaf, mesh, min_bytes))

  return jax.tree.map(sharding, shapes, is_leaf=_is_boxed)


def shard_like(tree, params, shardings):
  """Shardings for a tree of slots that mirror `params` (optimizer state).

  A leaf whose path ends in a parameter's path, with its shape, lies as the parameter
  does; everything else is replicated.
  """
  leaves = jax.tree_util.tree_leaves_with_path(params)
  placed = zip(leaves, jax.tree.leaves(shardings), strict=True)
  table = {_keys(path): (x.shape, sharding) for (path, x), sharding in placed}
  everywhere = replicated(jax.tree.leaves(shardings)[0].mesh)

  def sharding(path, leaf):
    keys = _keys(path)
    for start in range(len(keys)):
      shape, found = table.get(keys[start:], (None, None))
      if shape == leaf.shape:
        return found
    return everywhere

  return jax.tree_util.tree_map_with_path(sharding, tree)


def batch_axes(mesh, rules):
  """The mesh axes over which the rows of a batch are spread, by the rule `batch`."""
  return dict(check_rules(rules, mesh)).get("batch", ())


def put(batch, mesh, rules):
  """A batch of numpy arrays, rows spread over the mesh axes of the rule `batch`.

  Each process passes its own rows; scalars are replicated.

  Raises:
    ValueError: for rows that do not divide, TypeError: for what is not a number.
  """
  axes = batch_axes(mesh, rules)
  parts = math.prod(mesh.shape[a] for a in axes)
  here = max(parts // jax.process_count(), 1)

  def put_one(path, x):
    name, x = jax.tree_util.keystr(path), np.asarray(x)
    if x.dtype.kind in "OSU":
      raise TypeError(
        f"batch{name} has dtype {x.dtype}, which no device holds; encode it to numbers "
        "first, or leave it out of the records."
      )
    if x.ndim and x.shape[0] % here:
      raise ValueError(
        f"batch{name} has {x.shape[0]} rows; the mesh axes {axes} split a batch "
        f"in {here}: choose a batch size that is a multiple of {here}."
      )
    spec = P(axes) if x.ndim and axes else P()
    return jax.make_array_from_process_local_data(NamedSharding(mesh, spec), x)

  return jax.tree_util.tree_map_with_path(put_one, batch)


def _is_boxed(leaf):
  return isinstance(leaf, nn.meta.AxisMetadata)


def _keys(path):
  return tuple(jax.tree_util.keystr((key,), simple=True) for key in path)


def _by_names(box, mesh, rules):
  used, spec = set(), []
  names = tuple(box.get_partition_spec())
  shape = box.value.shape
  names += (None,) * (len(shape) - len(names))
  for name, size in zip(names, shape, strict=True):
    found = ()
    for key, axes in rules:
      parts = math.prod(mesh.shape[a] for a in axes)
      if key == name and not used & set(axes) and size % parts == 0:
        found = axes
        break
    used |= set(found)
    spec.append(found[0] if len(found) == 1 else found or None)
  return P(*spec)


def _by_size(leaf, mesh, min_bytes):
  parts = mesh.shape.get("fsdp", 1)
  fits = [i for i, size in enumerate(leaf.shape) if size % parts == 0]
  if parts == 1 or not fits or leaf.size * leaf.dtype.itemsize < min_bytes:
    return P()
  largest = max(fits, key=lambda i: (leaf.shape[i], i))
  return P(*(None,) * largest, "fsdp")
