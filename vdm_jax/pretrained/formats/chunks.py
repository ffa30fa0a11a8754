"""A parameter from arrays in files, chunk by chunk, so that little memory is used."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from vdm_jax.pretrained.formats import tensor

LIMIT = 16 * 2**20  # bytes of arrays that are read whole


def to_chunks(arrays, pattern, axis_sizes, shape, limit=None):
  """Yields (start, values), the chunks of a parameter made of published arrays.

  `start` is the index of a chunk's first element in the parameter, one int an axis;
  `values` is a numpy array. A small parameter is one chunk. Of a large one, each layer
  of a stack is; of a large layer, as many rows as stay under the limit.

  Args:
    arrays: list of one published array, or of several that are stacked first; numpy
      arrays, or Tensors in files.
    pattern: einops, from published to ours; the axis of stacked ones is l, outermost.
    axis_sizes: {letter of the pattern: size}.
    shape: of the parameter.
    limit: bytes of published arrays in a chunk; None: LIMIT, 16 MiB.
  """
  limit = limit or LIMIT
  left, right = (re.findall(r"\(.*?\)|\S+", side) for side in pattern.split("->"))
  letters = re.findall(r"\w+", pattern)
  stacked = "l" in letters
  layers = 1
  if stacked and "l" in right and sum(map(tensor.num_bytes, arrays)) > limit:
    layers = shape[right.index("l")]
  each = len(arrays) // layers
  # Rows are a chunk of the parameter only if they are an axis of its own in both.
  rows = left[stacked] if len(left) > stacked else "("
  row_axis = rows if "(" not in rows and rows in right else None
  axes = {k: n for k, n in axis_sizes.items() if k in letters and k != row_axis}

  for i in range(layers):
    layer = arrays[i * each : (i + 1) * each]
    for row, x in tensor.iterate_rows(layer, limit if row_axis else float("inf")):
      start = tuple({"l": i, row_axis: row}.get(axis, 0) for axis in right)
      yield start, _as_ours(np.stack(x) if stacked else x[0], pattern, axes)


def _as_ours(x, pattern, axes):
  """einops.rearrange(x, pattern, **axes), but axes that become one are copied fast."""
  left, right = pattern.split("->")
  letters = " ".join(re.findall(r"\w+", right))
  x = rearrange(x, f"{left} -> {letters}", **axes)  # a view
  if "(" not in right:
    return x
  return rearrange(tensor.contiguous(x), f"{letters} -> {right}", **axes)


def assemble(chunks, shape, dtype):
  """One numpy array of this shape and dtype, put together from chunks.

  `chunks` yields (index of a chunk's first element, one int an axis; numpy array). A
  WeightsError if numbers of them are too large for the dtype.
  """
  out = np.empty(shape, dtype)
  for start, x in chunks:
    out[tuple(slice(s, s + n) for s, n in zip(start, x.shape, strict=True))] = (
      tensor.cast(tensor.contiguous(x), dtype)
    )
  return out


def to_devices(chunks, shape, dtype, sharding):
  """One jax.Array of this shape, dtype and sharding; a device gets only its own shard.

  `chunks` yields (index of a chunk's first element, one int an axis; numpy array). A
  WeightsError if numbers of them are too large for the dtype.
  """
  parts = {
    device: tuple(s.indices(n)[:2] for s, n in zip(index, shape, strict=True))
    for device, index in sharding.addressable_devices_indices_map(shape).items()
  }
  buffers = dict.fromkeys(parts)
  for start, x in chunks:
    for device, bounds in parts.items():
      shared = [
        (max(low, s), min(high, s + n))
        for (low, high), s, n in zip(bounds, start, x.shape, strict=True)
      ]
      if any(low >= high for low, high in shared):
        continue
      index = tuple(
        slice(a - s, b - s) for (a, b), s in zip(shared, start, strict=True)
      )
      # Transposed views go as they are: JAX copies them three times faster than numpy.
      part = tensor.cast(x[index], dtype)
      # On CPU a device keeps the very bytes it is given where they are aligned, with
      # may_alias=False too (jax 0.10); here a file, or another device, holds them.
      if part.flags.c_contiguous and np.may_share_memory(part, x):
        part = part.copy()
      part = jax.device_put(part, device)
      size = tuple(high - low for low, high in bounds)
      if part.shape == size:
        buffers[device] = part
        continue
      if buffers[device] is None:
        buffers[device] = jnp.zeros(size, dtype, device=device)
      inside = [a - low for (a, _), (low, _) in zip(shared, bounds, strict=True)]
      buffers[device] = _put(buffers[device], part, np.array(inside, np.int32))
      buffers[device].block_until_ready()  # else chunks would queue up in memory
  return jax.make_array_from_single_device_arrays(
    shape, sharding, [buffers[device] for device in parts]
  )


@functools.partial(jax.jit, donate_argnums=0)
def _put(buffer, part, start):
  return jax.lax.dynamic_update_slice(buffer, part, list(start))
