"""Our own parameters in one safetensors file, and the files in the package.

A file holds several parts, such as "autoencoder" and "denoiser"; a parameter is named
"part/a/b/c". Half precision keeps it small, and 8 bits where that is enough: integers,
and a scale for each output channel. What is read back is float32.
"""

import pathlib
import re

import flax
import numpy as np
from safetensors import SafetensorError
from safetensors import numpy as safetensors_numpy

from vdm_jax import atomic

SCALE = "#scale"  # behind the name of a tensor of integers: what they count
PACKAGED = pathlib.Path(__file__).parents[1] / "weights"


def save(path, parts, dtype=np.float16, eight_bits=None):
  """Writes parameters to one safetensors file, whole or not at all; returns its bytes.

  Args:
    path: of the file.
    parts: {part, such as "autoencoder": nested dict of arrays}.
    dtype: of all arrays but those of 8 bits.
    eight_bits: regex over "part/a/b/c", or None: which arrays of two axes or more,
      their last one the output channels, become int8 with a scale for each channel.

  Raises:
    ValueError: a value is not finite, or is too large for `dtype`.
  """
  path = pathlib.Path(path)
  flat = flax.traverse_util.flatten_dict(parts, sep="/")
  with np.errstate(over="ignore"):
    arrays = {}
    for name, x in flat.items():
      x = np.asarray(x)
      if eight_bits and x.ndim > 1 and re.search(eight_bits, name):
        x, scale = quantize_int8(x)
        arrays[name], arrays[name + SCALE] = x, scale.astype(dtype)
      else:
        arrays[name] = x.astype(dtype, order="C")
  wrong = [name for name, x in arrays.items() if not np.isfinite(x).all()]
  if wrong:
    raise ValueError(
      f"{wrong} hold values that are not finite as {np.dtype(dtype).name}; save in a "
      "wider type, or find out why the training diverged."
    )
  data = safetensors_numpy.save(arrays)
  with atomic.file(path) as file:
    file.write_bytes(data)
  return len(data)


def load(path, part):
  """One part of a file that `save` wrote, a nested dict of float32 numpy arrays.

  Args:
    path: of the safetensors file.
    part: such as "autoencoder".

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is torn or no safetensors file, or has no such part.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise FileNotFoundError(f"{path}: no such file of weights.")
  try:
    arrays = safetensors_numpy.load_file(path)
  except SafetensorError as error:
    raise ValueError(f"{path} is no whole safetensors file ({error}).") from error
  parts = sorted({name.partition("/")[0] for name in arrays})
  if part not in parts:
    raise ValueError(f"{path} has no part {part!r}; it has {parts}.")
  found = {}
  for name, x in arrays.items():
    if name.startswith(f"{part}/") and not name.endswith(SCALE):
      scale = arrays.get(name + SCALE, np.ones(1, np.float16))
      found[name.partition("/")[2]] = x.astype(np.float32) * scale.astype(np.float32)
  return flax.traverse_util.unflatten_dict(found, sep="/")


def quantize_int8(x):
  """(int8 array like x, scale [C] float32) whose product is x [..., C], up to rounding.

  The error is at most 1/254 of the largest absolute value of a channel.
  """
  top = np.abs(x).max(axis=tuple(range(x.ndim - 1)))
  scale = (top / 127.0).astype(np.float16).astype(np.float32)  # as it will be read
  scale = np.where(scale > 0, scale, 1.0)  # a channel of zeros, or as good as zeros
  return np.clip(np.rint(x / scale), -127, 127).astype(np.int8), scale


def load_packaged(name, part):
  """Weights that ship with this package, a nested dict of float32 numpy arrays.

  Args:
    name: of a file in vdm_jax/weights, without its ending, such as "moving_digits".
    part: of the file, such as "autoencoder".

  Raises:
    FileNotFoundError: the package has no such file.
  """
  path = PACKAGED / f"{name}.safetensors"
  if not path.is_file():
    there = sorted(file.stem for file in PACKAGED.glob("*.safetensors"))
    raise FileNotFoundError(f"The package has no weights {name!r}; it has {there}.")
  return load(path, part)
