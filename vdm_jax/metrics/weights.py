"""Weights of published feature extractors, from files without pickles."""

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


def check_shapes(state_dict, shapes, model):
  """Raises a ValueError, which names `model`, unless {name: array} has these shapes.

  `shapes` is {name: shape}, with all names that must be there.
  """
  wrong = [f"missing {k}" for k in shapes if k not in state_dict]
  wrong += [
    f"{k} has shape {np.shape(state_dict[k])}, expected {shape}"
    for k, shape in shapes.items()
    if k in state_dict and np.shape(state_dict[k]) != shape
  ]
  if wrong:
    raise ValueError(f"These are no weights of {model}: {'; '.join(wrong)}.")


def float32(x):
  """x as a numpy array of float32."""
  return np.asarray(x, np.float32)
