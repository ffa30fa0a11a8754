"""Attention on each device's shard, by `jax.shard_map`.

The compiler splits the rest of a network over a mesh by itself; a kernel that it cannot
split, or a sequence that is passed between devices, works on one device's shard.
"""

import math
from typing import NamedTuple

import jax
from jax.sharding import PartitionSpec as P

from vdm_jax.layers import placement


class AttentionLayout(NamedTuple):
  """Mesh axes, tuples of names, that split an array [..., L, N, D]; () is a whole axis.

  `rows` has a tuple for each leading axis; `sequence` splits L, and `heads` splits N.
  """

  rows: tuple[tuple[str, ...], ...]
  sequence: tuple[str, ...]
  heads: tuple[str, ...]


def is_single_device():
  """Whether the arrays of this trace are on one device, or a shard of one."""
  mesh = jax.sharding.get_abstract_mesh()
  return mesh.empty or mesh.size == 1 or set(mesh.manual_axes) == set(mesh.axis_names)


def layout_of(shape, names):
  """AttentionLayout (mesh axes of rows, sequence, heads), or None if nothing is split.

  Rows and heads are split evenly or not at all; the sequence over all mesh axes of its
  name, whatever its length.

  Args:
    shape: [..., L, N, D].
    names: logical names of these axes, or None.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if names is None or is_single_device() or mesh.manual_axes:
    return None
  long = (*shape[:-3], shape[-3] * mesh.size, *shape[-2:])
  split = placement.mesh_axes(long, names)
  if split is None:
    return None
  split = [tuple(axis for axis in axes if mesh.shape[axis] > 1) for axes in split]
  return AttentionLayout(tuple(split[:-3]), split[-3], split[-2])


def num_devices(axes):
  """The number of devices along mesh axes, the product of the axes' sizes."""
  sizes = jax.sharding.get_abstract_mesh().shape
  return math.prod(sizes[axis] for axis in axes)


def local_shape(shape, layout):
  """The shape of a device's shard of an array with an AttentionLayout, rounded up."""
  split = (*layout.rows, layout.sequence, layout.heads, ())
  return tuple(
    -(-size // num_devices(axes)) for size, axes in zip(shape, split, strict=True)
  )


def run_sharded(fn, layout, q, k, v, mask=None):
  """fn(q, k, v, mask) -> [..., L, N, D], called with each device's shard.

  Args:
    fn: attention of one shard, (q, k, v, mask) -> array of the shape of q.
    layout: AttentionLayout of q, k, v and the output.
    mask: [..., 1, 1, M], not split along M, or None.
  """
  mesh = jax.sharding.get_abstract_mesh()
  named = {*sum(layout.rows, ()), *layout.sequence, *layout.heads}
  # Over an axis that is not named a backward pass sums, even if its size is 1.
  idle = tuple(a for a in mesh.axis_names if mesh.shape[a] == 1 and a not in named)
  spec = P(*layout.rows, layout.sequence, (*layout.heads, *idle), None)
  masks = None
  if mask is not None:
    sizes = zip(layout.rows, mask.shape[:-3], strict=True)
    masks = P(*(axes if size > 1 else None for axes, size in sizes), None, None, None)
  return jax.shard_map(
    fn,
    in_specs=(spec, spec, spec, masks),
    out_specs=spec,
    check_vma=False,  # Pallas does not say over which axes its results vary.
  )(q, k, v, mask)
