"""A parameter from arrays in files, piece by piece, so that little is held at a time.

A piece is (start, array): where in the parameter it begins, on each axis, and its
values. Small parameters are one piece. Of large ones, each layer of a stack is one;
of a large layer, so many rows of its arrays as stay under LIMIT.
"""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from vdm_jax.pretrained.formats import tensor

LIMIT = 16 * 2**20  # bytes of arrays that are read whole


def cut(arrays, pattern, axes, shape, limit=None):
  """Yields the pieces of a parameter.

  Args:
    arrays: one, or those that are stacked first, as files or in memory.
    pattern: einops, from theirs to ours; stacked ones have the axis l, outermost.
    axes: {letter: size}.
    shape: of the parameter.
    limit: LIMIT.
  """
  limit = limit or LIMIT
  left, right = (re.findall(r"\(.*?\)|\S+", side) for side in pattern.split("->"))
  letters = re.findall(r"\w+", pattern)
  stacked = "l" in letters
  layers = 1
  if stacked and "l" in right and sum(map(tensor.size, arrays)) > limit:
    layers = shape[right.index("l")]
  each = len(arrays) // layers
  # Rows of theirs are a piece of ours only if they are an axis of its own in both.
  rows = left[stacked] if len(left) > stacked else "("
  row_axis = rows if "(" not in rows and rows in right else None
  axes = {k: n for k, n in axes.items() if k in letters and k != row_axis}

  for i in range(layers):
    layer = arrays[i * each : (i + 1) * each]
    for row, x in tensor.by_rows(layer, limit if row_axis else float("inf")):
      start = tuple({"l": i, row_axis: row}.get(axis, 0) for axis in right)
      yield start, _as_ours(np.stack(x) if stacked else x[0], pattern, axes)


def _as_ours(x, pattern, axes):
  """`rearrange`, but axes that become one are copied fast."""
  left, right = pattern.split("->")
  letters = " ".join(re.findall(r"\w+", right))
  x = rearrange(x, f"{left} -> {letters}", **axes)  # a view
  if "(" not in right:
    return x
  return rearrange(tensor.contiguous(x), f"{letters} -> {right}", **axes)


def whole(pieces, shape, dtype):
  """The parameter as a numpy array."""
  out = np.empty(shape, dtype)
  for start, x in pieces:
    out[tuple(slice(s, s + n) for s, n in zip(start, x.shape, strict=True))] = (
      tensor.contiguous(x)
    )
  return out


def placed(pieces, shape, dtype, sharding):
  """The parameter as a jax.Array that lies as `sharding` says.

  Each device holds its part and receives what of a piece belongs to it.
  """
  parts = {
    device: tuple(s.indices(n)[:2] for s, n in zip(index, shape, strict=True))
    for device, index in sharding.addressable_devices_indices_map(shape).items()
  }
  buffers = dict.fromkeys(parts)
  for start, x in pieces:
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
      part = x[index].astype(dtype, copy=False)
      # On CPU a device keeps the very bytes it is given where they are aligned, with
      # may_alias=False too (jax 0.10); here a file, or another device, holds them.
      if part.flags.c_contiguous and np.may_share_memory(part, x):
        part = jnp.array(part, copy=True, device=device)
      else:
        part = jax.device_put(part, device)
      size = tuple(high - low for low, high in bounds)
      if part.shape == size:
        buffers[device] = part
        continue
      if buffers[device] is None:
        buffers[device] = jnp.zeros(size, dtype, device=device)
      inside = [a - low for (a, _), (low, _) in zip(shared, bounds, strict=True)]
      buffers[device] = _put(buffers[device], part, np.array(inside, np.int32))
      buffers[device].block_until_ready()  # else pieces would queue up in memory
  return jax.make_array_from_single_device_arrays(
    shape, sharding, [buffers[device] for device in parts]
  )


@functools.partial(jax.jit, donate_argnums=0)
def _put(buffer, part, start):
  return jax.lax.dynamic_update_slice(buffer, part, list(start))
