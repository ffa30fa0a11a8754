"""The loop over batches: a function of many rows, computed a few rows at a time."""

import contextlib

import jax
import numpy as np

from vdm_jax import keys, sharding


def pad_rows_and_count(rows, size):
  """({name: array [size, ...]}, count): `count` rows, padded by repeating the last one.

  Args:
    rows: {name: array [count, ...]}.
  """
  count = len(next(iter(rows.values())))
  if count == size:
    return rows, count
  index = np.minimum(np.arange(size), count - 1)
  return {name: x[index] for name, x in rows.items()}, count


def round_up_batch_size(size, mesh, rules):
  """The least number of rows, at least `size`, that the mesh splits evenly.

  Args:
    mesh, rules: a Mesh, and ((logical axis, mesh axes), ...); "batch" is that of rows.
  """
  count = sharding.batch_parts_and_count(mesh, rules)[1]
  return -(-size // count) * count


def map_batches(apply, rows, batch_size, **options):
  """Applies a function to all rows in batches: a tree of numpy arrays [N, ...].

  Arguments are those of `iterate_batches`.
  """
  parts = iterate_batches(apply, rows, batch_size, **options)
  return jax.tree.map(lambda *x: np.concatenate(x), *parts)


def iterate_batches(
  apply, rows, batch_size, *, mesh=None, rules=(), key=None, update=None
):
  """Yields what a function makes of the rows, in batches: trees of numpy [b, ...].

  Every batch has the same shape: the last row is repeated, and what is made of the
  repetitions is left out. The result is the same on all processes.

  Args:
    apply: batch -> tree of arrays [B, ...]; (batch, keys) -> tree where a key is given.
    rows: {name: array [N, ...]}, the same on every process.
    batch_size: rows at a time, rounded up to what the mesh splits evenly.
    mesh, rules: a Mesh, and ((logical axis, mesh axes), ...); "batch" is that of rows.
      Without a mesh, the default device computes all.
    key: PRNG key; `apply` gets keys [B], each folded with the index of its row.
    update: called with the number of rows done after each batch.
  """
  total = len(next(iter(rows.values())))
  size = batch_size if mesh is None else round_up_batch_size(batch_size, mesh, rules)
  for first in range(0, total, batch_size):
    part = {name: x[first : first + batch_size] for name, x in rows.items()}
    batch, count = pad_rows_and_count(part, size)
    args = () if key is None else (keys.per_video(key, first + np.arange(size)),)
    with contextlib.nullcontext() if mesh is None else sharding.use_mesh(mesh, rules):
      batch = batch if mesh is None else sharding.put_whole_batch(batch, mesh, rules)
      out = apply(batch, *args)
    yield jax.tree.map(lambda x, n=count: x[:n], sharding.fetch(out))
    if update is not None:
      update(first + count)
