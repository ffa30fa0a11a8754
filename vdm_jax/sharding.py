"""Device meshes, and rules from logical axes to mesh axes.

A config names the mesh, `dict(data=-1, fsdp=1, seq=1, tensor=1)`, and the rules from
logical axis to mesh axis, `(("batch", ("data", "fsdp")), ("embed", "fsdp"), ...)`.
Layers name their axes (`nn.with_logical_partitioning`); of a parameter without names
the largest divisible axis is split over `fsdp`, if it is over 4 MiB.
"""

import contextlib
import functools
import math

import flax.linen as nn
import jax
import numpy as np
from jax.experimental import mesh_utils, multihost_utils
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from vdm_jax import config

MIN_BYTES = 4 * 2**20  # smaller parameters without names are replicated


def make_mesh(axes, devices=None, dcn=None):
  """A jax.sharding.Mesh with these axes.

  Devices of one slice share a fast network (ICI, NVLink); between slices is a slow one
  (DCN). A slice is a TPU slice, or a host of GPUs or CPUs. Each axis has `dcn` parts in
  different slices, and the rest of it is within one.

  Args:
    axes: {name: size}, slowest first. One size may be -1: the rest of the devices.
    devices: [jax.Device]; None: all.
    dcn: {name: slices}, which axes cross slices; -1 as above. By default all slices
      of TPUs and of GPUs are on `data`, and CPU hosts are not considered.

  Raises:
    ValueError: if the sizes do not multiply to the number of devices, or the slices.
  """
  devices = jax.devices() if devices is None else devices
  shape = _fit("mesh", axes, len(devices), "devices")
  slices, by_process = _slices(devices, dcn)
  crossing = _crossing(dict(zip(axes, shape, strict=True)), slices, dcn)
  # Auto: the compiler spreads shardings from our constraints. (Explicit, JAX's
  # default, would make every reshape ask for one, and linen does not answer.)
  auto = (jax.sharding.AxisType.Auto,) * len(shape)
  if slices == 1:
    place = functools.partial(mesh_utils.create_device_mesh, shape, devices)
  else:
    within = [n // k for n, k in zip(shape, crossing, strict=True)]
    place = functools.partial(
      mesh_utils.create_hybrid_device_mesh,
      within,
      crossing,
      devices,
      process_is_granule=by_process,
    )
  # As jax.make_mesh does: a v5e torus is too small to give each axis its own rings.
  small = "v5 lite" in devices[0].device_kind.lower()
  try:
    placed = place(allow_split_physical_axes=small)
  except NotImplementedError:  # 16 x 16 of a torus of 4 x 8 x 8 can only share a ring
    placed = place(allow_split_physical_axes=True)
  return jax.sharding.Mesh(placed, tuple(axes), axis_types=auto)


def _fit(name, axes, total, of):
  """The sizes of `axes`, -1 resolved, that multiply to `total`."""
  axes = dict(axes)
  bad = {k: v for k, v in axes.items() if v != -1 and v < 1}
  if bad or not axes or list(axes.values()).count(-1) > 1:
    raise ValueError(
      f"{name}={axes}: each axis must be a positive size, and at most one may be -1 "
      f"(it takes the {of} that are left)."
    )
  fixed = math.prod(v for v in axes.values() if v != -1)
  shape = tuple(total // fixed if v == -1 else v for v in axes.values())
  if math.prod(shape) != total:
    expected = f"a multiple of {fixed}" if -1 in axes.values() else f"{fixed}"
    raise ValueError(
      f"{name}={axes} needs {expected} {of}, there are {total}; use -1 for one "
      f"axis, or sizes that multiply to {total}."
    )
  return shape


def _slices(devices, dcn):
  """(number of slices, whether these are processes)."""
  slices = {getattr(d, "slice_index", 0) for d in devices}
  if len(slices) > 1 or dcn is None or devices[0].platform == "tpu":
    return len(slices), False
  # Hosts whose devices tell no slice: each is one as soon as the config speaks of them.
  return len({d.process_index for d in devices}), True


def _crossing(axes, slices, dcn):
  """For each axis, the number of slices that it crosses."""
  if dcn is None and slices == 1:
    return (1,) * len(axes)
  dcn = {"data": slices} if dcn is None else dict(dcn)
  for name in dcn:
    if name not in axes:
      raise ValueError(
        f"dcn={dcn}: {slices} slices cannot be on {name!r}, the mesh has only "
        f"{tuple(axes)}; name one of these in cfg.dcn, such as "
        f"dict({next(iter(axes))}={slices})."
      )
  crossing = dict(zip(dcn, _fit("dcn", dcn, slices, "slices"), strict=True))
  for name, parts in crossing.items():
    if axes[name] % parts:
      raise ValueError(
        f"mesh axis {name}={axes[name]} cannot cross {parts} slices: it must be a "
        f"multiple of {parts}. Change cfg.mesh, or say in cfg.dcn which axis crosses "
        "the slices."
      )
  return tuple(crossing.get(name, 1) for name in axes)


@contextlib.contextmanager
def use_mesh(mesh, rules):
  """A context in which layers' logical axes are split over a mesh.

  Args:
    mesh, rules: jax.sharding.Mesh, and ((logical axis, mesh axis or axes), ...).
  """
  rules = normalize_rules(rules, mesh)
  with jax.set_mesh(mesh), nn.logical_axis_rules(rules):
    yield


def normalize_rules(rules, mesh):
  """Rules as ((name, (mesh axis, ...)), ...); ValueError for axes not in the mesh."""
  pairs = rules.items() if hasattr(rules, "items") else rules
  out = []
  for name, axes in pairs:
    axes = (axes,) if isinstance(axes, str) else tuple(axes or ())
    for axis in axes:
      if axis not in mesh.shape:
        raise ValueError(
          f"rule ({name!r}, {axes}) names the mesh axis {axis!r}; the mesh has "
          f"{mesh.axis_names}.{config.did_you_mean(axis, mesh.axis_names)}"
        )
    out.append((name, axes))
  return tuple(out)


def replicated(mesh):
  """The NamedSharding of an array that every device of the mesh holds whole."""
  return NamedSharding(mesh, P())


def unbox(tree):
  """A tree of arrays, from one with flax's boxes of axis names."""
  return jax.tree.map(
    lambda leaf: leaf.value if _is_boxed(leaf) else leaf, tree, is_leaf=_is_boxed
  )


def param_shardings(shapes, mesh, rules, min_bytes=MIN_BYTES):
  """A tree of NamedShardings for parameters, in the structure of `unbox(shapes)`.

  Args:
    shapes: the abstract pytree that `jax.eval_shape` gives; leaves may be boxed by
      `nn.with_logical_partitioning`. A name takes its first rule whose mesh axes are
      still free in this array and divide its size; else that axis is not split.
    mesh, rules: jax.sharding.Mesh, and ((logical axis, mesh axis or axes), ...).
    min_bytes: from this size on, a parameter without names is split over `fsdp`.
  """
  rules = normalize_rules(rules, mesh)

  def sharding(leaf):
    if _is_boxed(leaf):
      return NamedSharding(mesh, _by_names(leaf, mesh, rules))
    return NamedSharding(mesh, _by_size(leaf, mesh, min_bytes))

  return jax.tree.map(sharding, shapes, is_leaf=_is_boxed)


def shardings_like_params(tree, params, shardings):
  """A tree of NamedShardings for `tree`, such as an optimizer state of `params`.

  A leaf whose path ends in a parameter's path, with its shape, has the parameter's
  sharding from `shardings`, a tree like `params`; everything else is replicated.
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
  """The mesh axes, a tuple of names, that split the rows of a batch (rule "batch")."""
  return dict(normalize_rules(rules, mesh)).get("batch", ())


def batch_parts_and_count(mesh, rules, process=None):
  """(parts, count): the indices, of `count` equal parts of a batch, of a process.

  By the batch coordinate of its devices, not by the index of the process: hosts that
  share a sequence (`seq` or `tensor` across them) need, and load, the same rows. On a
  torus the parts of a host need not be neighbours.

  Args:
    mesh, rules: a Mesh, and ((logical axis, mesh axes), ...); "batch" is that of rows.
    process: index of the process; this one by default.
  """
  process = jax.process_index() if process is None else process
  axes = batch_axes(mesh, rules)
  first = [mesh.axis_names.index(axis) for axis in axes]
  count = math.prod(mesh.shape[axis] for axis in axes)
  groups = np.moveaxis(mesh.devices, first, range(len(first))).reshape(count, -1)
  mine = [any(d.process_index == process for d in group) for group in groups]
  if not any(mine):
    raise ValueError(
      f"process {process} has no device in the mesh {dict(mesh.shape)}; make it of the "
      "devices of all processes."
    )
  return tuple(i for i, is_mine in enumerate(mine) if is_mine), count


def check_accumulation(batch, parts, mesh, rules):
  """Raises a ValueError if the mesh cannot split the rows of a micro-batch evenly.

  Args:
    batch: {name: array or ShapeDtypeStruct [B, ...]}.
    parts: number of micro-batches, over which gradients are accumulated.
    mesh, rules: a Mesh, and ((logical axis, mesh axes), ...); "batch" is that of rows.
  """
  rows, shards = (
    jax.tree.leaves(batch)[0].shape[0],
    batch_parts_and_count(mesh, rules)[1],
  )
  if parts > 1 and rows % parts == 0 and rows // parts % shards:
    raise ValueError(
      f"accumulate={parts} cuts a batch of {rows} rows in parts of {rows // parts}, "
      f"which {shards} shards of data cannot share evenly. Take a batch of a multiple "
      f"of {parts * shards} rows, or fewer parts."
    )


def put_batch(batch, mesh, rules):
  """A batch {name: [B, ...]} as jax.Arrays, its rows split over the mesh.

  Args:
    batch: numpy arrays, in each process the rows of its `batch_parts_and_count`, in
      order; scalars are replicated.
    mesh, rules: a Mesh, and ((logical axis, mesh axes), ...); "batch" is that of rows.

  Raises:
    ValueError: for rows that do not divide, TypeError: for what is not a number.
  """
  return _place_rows(batch, mesh, rules, *batch_parts_and_count(mesh, rules))


def put_whole_batch(batch, mesh, rules):
  """A batch {name: [B, ...]} as jax.Arrays, its rows split over the mesh.

  Args:
    batch: numpy arrays of all rows, the same in each process; scalars are replicated.
    mesh, rules: a Mesh, and ((logical axis, mesh axes), ...); "batch" is that of rows.
  """
  count = batch_parts_and_count(mesh, rules)[1]
  return _place_rows(batch, mesh, rules, range(count), count)


def device_put(tree, shardings):
  """A tree of jax.Arrays with `shardings`, a tree like it or one for all.

  Unlike jax.device_put, it does not compare processes: an array that only this process
  holds, numpy or jax, must be the same on every process.
  """

  def place_one(x, to):
    here = not isinstance(x, jax.Array) or x.is_fully_addressable
    if jax.process_count() == 1 or not here:
      return jax.device_put(x, to)
    x = np.asarray(x)  # device_put would first send all of it to all, to compare
    return jax.make_array_from_callback(x.shape, to, lambda index: x[index])

  return jax.tree.map(place_one, tree, _for_each(tree, shardings))


def sharded_structs(tree, shardings):
  """A tree of ShapeDtypeStructs with `shardings`, a tree like it or one for all."""
  struct = lambda x, to: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=to)
  return jax.tree.map(struct, tree, _for_each(tree, shardings))


def _for_each(tree, shardings):
  if isinstance(shardings, jax.sharding.Sharding):
    return jax.tree.map(lambda _: shardings, tree)
  return shardings


def _place_rows(batch, mesh, rules, parts, count):
  """Arrays on the mesh from these `parts` of a batch."""
  axes = batch_axes(mesh, rules)
  place = {part: i for i, part in enumerate(parts)}

  def place_one(path, x):
    name, x = jax.tree_util.keystr(path), np.asarray(x)
    if x.dtype.kind in "OSU":
      raise TypeError(
        f"batch{name} has dtype {x.dtype}, which no device holds; encode it to numbers "
        "first, or leave it out of the records."
      )
    if x.ndim and x.shape[0] % len(parts):
      raise ValueError(
        f"batch{name} has {x.shape[0]} rows; the mesh axes {axes} split a batch "
        f"in {len(parts)}: choose a batch size that is a multiple of {count}."
      )
    if not x.ndim:
      return jax.make_array_from_callback((), replicated(mesh), lambda _: x)
    size = x.shape[0] // len(parts)

    def rows(index):
      at = place[(index[0].start or 0) // max(size, 1)] * size
      return x[at : at + size]

    shape = (size * count, *x.shape[1:])
    return jax.make_array_from_callback(shape, NamedSharding(mesh, P(axes)), rows)

  return jax.tree_util.tree_map_with_path(place_one, batch)


def fetch(tree):
  """Whole numpy arrays, on every process, of a tree of arrays on any devices.

  All processes must call it together.
  """

  def fetch_one(x):
    if not isinstance(x, jax.Array) or x.is_fully_addressable or x.is_fully_replicated:
      return np.asarray(x)
    return multihost_utils.process_allgather(x, tiled=True)

  return jax.tree.map(fetch_one, tree)


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
