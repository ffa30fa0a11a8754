"""Rows of the contract from tests/golden/published: the originals' recorded answers."""

import re

import numpy as np
from safetensors import numpy as safetensors

from tests.support import golden_files
from tests.support.published import case, folder

MOST = 1500  # numbers of one recorded array


def sparse(x):
  """An array of at most about MOST of the numbers of `x`, and the step between them."""
  flat = x.ravel()
  step = 2 * (flat.size // (2 * MOST)) + 1  # odd: all of the usual axes are met
  return flat[::step], step


def dense(values, step, shape):
  """The array of that shape with NaN for what was not recorded."""
  out = np.full(shape, np.nan, np.float32)
  out.ravel()[::step] = values
  return out


def open_case(row, path):
  """The Case of `row`; writes its folder to `path`."""
  meta, arrays = golden_files.read(f"published/{row.title}")
  (state,) = folder.write(meta["folder"], arrays, path).values()

  def ask():
    answers = []
    for i, answer in enumerate(meta["answers"]):
      get = lambda key, step, shape, i=i: dense(arrays[f"out_{i}/{key}"], step, shape)
      answers.append({key: get(key, *at) for key, at in answer.items()})
    return case.Recorded(row, case.Arguments(meta["arguments"]), answers)

  # transformers 5 leaves out what stands before all names of CLIP, and reads both.
  plain = lambda name: re.sub(r"^(text|vision)_model\.", "", name)
  names = {plain(name): name for name in state}

  def read(path):
    (file,) = path.glob("*.safetensors")
    found = safetensors.load_file(file).items()
    return {names.get(plain(name), name): x for name, x in found}

  return case.opened(row, row.recorded, ask, read, state, path)
