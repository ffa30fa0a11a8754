"""What a program needs of a device's HBM, by part, and whether it fits.

Parts of the state are counted exactly, by their shards. What the compiler says covers
all: its arguments may be larger than the parts (arrays are padded to tiles), its
temporaries are activations, gradients and workspace together.
"""

import dataclasses
import math
import re

import jax
import numpy as np

UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
# How libtpu says that a program does not fit; sizes are in units of 1024.
TEMPORARIES = re.compile(
  r"HLO temporaries \(([\d.]+)([KMGT]?)\) exceeds available HBM \(([\d.]+)([KMGT]?)\)"
)
USED = re.compile(r"Used ([\d.]+)([KMGT]?) of ([\d.]+)([KMGT]?) hbm")


@dataclasses.dataclass(frozen=True)
class MemoryUsage:
  """What a program needs of the HBM of one device, in bytes.

  Attributes:
    parts: {"parameters", "ema" ...: of its arguments}, and "padding and rest".
    temporaries: activations, gradients, workspace; at least so many if the compiler
      refused the program.
    code: the program itself.
    outputs: those that do not re-use the memory of an argument.
    available: what the device has.
  """

  parts: dict[str, int]
  temporaries: int
  code: int
  outputs: int
  available: int

  @property
  def total(self):
    """Bytes of arguments, temporaries, code and outputs."""
    return sum(self.parts.values()) + self.temporaries + self.code + self.outputs

  @property
  def fits(self):
    """Whether the device has as much."""
    return self.total <= self.available

  def by_part(self):
    """{part: bytes}: arguments, "activations and workspace", "program", "outputs"."""
    rest = {"activations and workspace": self.temporaries, "program": self.code}
    return {**self.parts, **rest, "outputs": self.outputs}


def from_analysis(stats, argument_trees, available):
  """The MemoryUsage, bytes by part and whether they fit, of a compiled program.

  Args:
    stats: what jax's `compiled.memory_analysis()` gives.
    argument_trees: {part: tree of ShapeDtypeStructs with shardings}.
    available: bytes of a device.
  """
  parts = {name: bytes_per_device(tree) for name, tree in argument_trees.items()}
  parts["padding and rest"] = max(stats.argument_size_in_bytes - sum(parts.values()), 0)
  return MemoryUsage(
    parts=parts,
    temporaries=stats.temp_size_in_bytes,
    code=stats.generated_code_size_in_bytes,
    outputs=stats.output_size_in_bytes - stats.alias_size_in_bytes,
    available=int(available),
  )


def from_compile_error(message, argument_trees, available):
  """The MemoryUsage, in bytes, of a program that the compiler refused for its size.

  Args:
    message: of the error; for an error of another kind None is returned.
    argument_trees: {part: tree of ShapeDtypeStructs with shardings}.
    available: bytes of a device.
  """
  parts = {name: bytes_per_device(tree) for name, tree in argument_trees.items()}
  if found := TEMPORARIES.search(message):
    temporaries, limit = _bytes(*found.groups()[:2]), _bytes(*found.groups()[2:])
  elif found := USED.search(message):
    used, limit = _bytes(*found.groups()[:2]), _bytes(*found.groups()[2:])
    temporaries = max(used - sum(parts.values()), 0)
  else:
    return None
  return MemoryUsage(parts, temporaries, 0, 0, min(limit, int(available)))


def bytes_per_device(tree):
  """Bytes that one device holds of a tree of ShapeDtypeStructs with shardings."""
  return sum(
    math.prod(x.sharding.shard_shape(x.shape)) * _itemsize(x.dtype)
    for x in jax.tree.leaves(tree)
  )


def _itemsize(dtype):
  if jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key):
    return 8
  return np.dtype(dtype).itemsize


def _bytes(number, unit):
  return int(float(number) * UNITS[unit])


def format_bytes(size):
  """A number of bytes as text: "3.97 GiB"."""
  for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
    if abs(size) >= factor:
      return f"{size / factor:.2f} {unit}"
  return f"{size:.0f} B"
