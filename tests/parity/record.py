"""Records what the originals compute into tests/golden/published.

python -m tests.parity.record [NAME ...]

With the extra [originals]. A name is that of a row of tests/support/published/rows.py;
all of them if there is none. The files that are there were recorded with the versions
that setup.py pins.
"""

import json
import sys
import tempfile

import diffusers
import numpy as np
import torch
import transformers

from tests.parity import originals
from tests.support import golden_files
from tests.support.published import folder, recorded, rows

VERSIONS = {m.__name__: m.__version__ for m in (torch, diffusers, transformers)}


def write(name, meta, arrays):
  """Writes golden/published/<name>.npz."""
  path = golden_files.GOLDEN / "published" / f"{name}.npz"
  path.parent.mkdir(exist_ok=True)
  np.savez_compressed(path, meta=json.dumps(meta | {"versions": VERSIONS}), **arrays)
  print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


def record(row):
  """One row of the contract: its folder and its answers."""
  with tempfile.TemporaryDirectory() as place:
    case, _ = originals.open_case(row, row.recorded, place)
    described, arrays = folder.describe(place, row.recorded)
    theirs = case.ask()
    case.ask = lambda: theirs
    error = case.error()
    assert error <= 1, (row.title, error)
  answers = []
  for i, answer in enumerate(theirs.answers):
    answers.append({})
    for key, x in answer.items():
      arrays[f"out_{i}/{key}"], step = recorded.sparse(x)
      answers[-1][key] = [step, list(x.shape)]
  arguments = json.loads(json.dumps(row.arguments(row.recorded)))
  meta = dict(cls=row.cls, arguments=arguments, folder=described, answers=answers)
  write(row.title, meta, arrays)


if __name__ == "__main__":
  for each in rows.ROWS:
    if each.title in (sys.argv[1:] or [each.title]):
      record(each)
