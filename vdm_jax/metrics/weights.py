"""Weights of published extractors: files that are read without unpickling anything."""

import pathlib

import numpy as np
import safetensors.numpy


def read_arrays(file):
  """{name: array} of a .safetensors or .npz file."""
  suffix = pathlib.Path(file).suffix
  if suffix == ".safetensors":
    return safetensors.numpy.load_file(file)
  if suffix == ".npz":
    with np.load(file, allow_pickle=False) as arrays:
      return dict(arrays)
  raise ValueError(
    f"{file} must be .safetensors or .npz: save the tensors of a .pth file as one of "
    "these, pickles are not read."
  )


def check_shapes(found, wanted, of):
  """Refuses {name: array} that lacks one of {name: shape}, naming all that is wrong."""
  wrong = [f"missing {k}" for k in wanted if k not in found]
  wrong += [
    f"{k} has shape {np.shape(found[k])}, wanted {shape}"
    for k, shape in wanted.items()
    if k in found and np.shape(found[k]) != shape
  ]
  if wrong:
    raise ValueError(f"These are no weights of {of}: {'; '.join(wrong)}.")


def float32(x):
  return np.asarray(x, np.float32)
