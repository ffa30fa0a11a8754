"""Arrays in files, read when they are needed, whole or some rows at a time."""

import dataclasses
import math
import pathlib

import numpy as np

BLOCK = 16 * 2**20  # bytes of two arrays that are compared at a time


class WeightsError(ValueError):
  """Raised for a file without whole, safe weights; the message lists what is wrong."""


@dataclasses.dataclass(frozen=True)
class Tensor:
  """An array in a file that is read when np.asarray asks for it.

  Attributes:
    path, offset: the file, and the array's first byte in it.
    dtype, shape: as a numpy array has them.
    strides: in elements, as in torch; None: contiguous, in C order.
  """

  path: pathlib.Path
  offset: int
  dtype: np.dtype
  shape: tuple[int, ...]
  strides: tuple[int, ...] | None = None

  def read(self, start=0, stop=None):
    """The numpy array, or its rows start : stop; other rows are not read."""
    if self.strides is not None:
      file = np.memmap(self.path, mode="r")
      strides = [n * self.dtype.itemsize for n in self.strides]
      x = np.ndarray(self.shape, self.dtype, file, self.offset, strides)
      return np.array(x[start:stop] if self.shape else x)
    start, stop, _ = slice(start, stop).indices(self.shape[0] if self.shape else 1)
    row = math.prod(self.shape[1:])
    count = (stop - start) * row
    offset = self.offset + start * row * self.dtype.itemsize
    x = np.fromfile(self.path, self.dtype, count, offset=offset)
    if x.size != count:
      raise WeightsError(f"{self.path} was cut short while it was read.")
    return x.reshape((stop - start, *self.shape[1:]) if self.shape else ())

  def __array__(self, dtype=None, copy=None):
    del copy  # a file has no array to share
    x = self.read()
    return x if dtype is None else x.astype(dtype)


def as_array(x):
  """A Tensor or numpy array as it is, anything else as a numpy array.

  A torch.Tensor is detached and moved to the CPU; bfloat16, which numpy lacks, becomes
  float32.
  """
  if isinstance(x, Tensor | np.ndarray):
    return x
  x = x.detach().cpu() if hasattr(x, "detach") else x
  try:
    return np.asarray(x)
  except TypeError:
    return np.asarray(x.float())


def cast(x, dtype):
  """The numpy array x in `dtype`; a WeightsError if finite numbers become infinite."""
  dtype = np.dtype(dtype)
  if x.dtype == dtype:
    return x
  with np.errstate(over="ignore"):
    out = x.astype(dtype)
  if dtype.itemsize <= 2:
    lost = np.isfinite(x) & ~np.isfinite(out)
    if lost.any():
      most = float(np.abs(x[lost].astype(np.float64)).max())
      raise WeightsError(
        f"has numbers up to {most:.3g}, which are infinite in {dtype}; open it as "
        "bfloat16 or float32."
      )
  return out


def num_bytes(x):
  """Number of bytes of an array, or of a Tensor in a file; an int."""
  return math.prod(x.shape) * np.dtype(x.dtype).itemsize


def read_rows(x, start, stop):
  """Rows start : stop of an array, or of a Tensor in a file, as a numpy array."""
  return x.read(start, stop) if isinstance(x, Tensor) else np.asarray(x[start:stop])


def contiguous(x):
  """The numpy array x in C order.

  For large transposed views six times as fast as np.ascontiguousarray.
  """
  if x.flags.c_contiguous:
    return x
  # The axis along which the source is contiguous, and a cache line of the result.
  near = min(range(x.ndim), key=lambda i: (x.shape[i] == 1, abs(x.strides[i])))
  line = 64 // x.itemsize
  if near == x.ndim - 1 or x.shape[near] < 256:
    return np.ascontiguousarray(x)
  out = np.empty(x.shape, x.dtype)
  source, target = np.moveaxis(x, near, -2), np.moveaxis(out, near, -2)
  for i in np.ndindex(source.shape[:-2]):
    for j in range(0, x.shape[-1], line):
      target[i][:, j : j + line] = source[i][:, j : j + line]
  return out


def iterate_rows(arrays, limit):
  """Yields (number of the first row, [numpy array of these rows of each array]).

  Args:
    arrays: Tensors in files, or arrays, of the same number of rows.
    limit: bytes of all arrays' rows at a time; at least one row is read.
  """
  count = arrays[0].shape[0] if arrays[0].shape else 0
  total = sum(map(num_bytes, arrays))
  if total <= limit or count < 2:
    yield 0, [np.asarray(x) for x in arrays]
    return
  step = max(1, limit * count // total)
  for row in range(0, count, step):
    yield row, [read_rows(x, row, row + step) for x in arrays]


def copy_problems(state_dict, copies):
  """["NAME is not the same as OTHER"] for arrays that should be copies and are not.

  Args:
    state_dict: {name: array, or Tensor in a file}.
    copies: {name: name of which it should be a copy}; absent names are no problem.
  """
  return [
    f"{name} is not the same as {other}"
    for name, other in copies.items()
    if {name, other} <= state_dict.keys()
    and not _equal(state_dict[name], state_dict[other])
  ]


def _equal(a, b):
  return a.shape == b.shape and all(
    np.array_equal(*parts, equal_nan=True) for _, parts in iterate_rows([a, b], BLOCK)
  )
