"""Records what originals compute: golden/published, pipelines and schedulers.npz.

python -m tests.parity.record [NAME ...]

With the extra [originals]. A name is that of a row of tests/support/published/rows.py,
of a function of record_pipelines.py, or "schedulers"; all of them if there is none. The
files that are there were recorded with the versions that setup.py pins.
"""

import json
import pathlib
import sys
import tempfile

import diffusers
import numpy as np
import torch
import transformers

from tests.parity import originals, pipelines, record_pipelines, schedulers
from tests.support import golden_files
from tests.support.published import folder, recorded, rows, trajectories

VERSIONS = {m.__name__: m.__version__ for m in (torch, diffusers, transformers)}


def write(name, meta, arrays):
  """Writes golden/<name>.npz."""
  path = golden_files.GOLDEN / f"{name}.npz"
  path.parent.mkdir(exist_ok=True)
  np.savez_compressed(path, meta=json.dumps(meta | {"versions": VERSIONS}), **arrays)
  print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


def record(row):
  """One row of the contract: its folder and its answers."""
  with tempfile.TemporaryDirectory() as place:
    case = originals.open_case(row, row.recorded, place)
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
  write(f"published/{row.title}", meta, arrays)


def record_pipeline(name, make):
  """One function of record_pipelines.py: its folder and outputs."""
  with tempfile.TemporaryDirectory() as place:
    (pathlib.Path(place) / "saved").mkdir()
    outputs = make(pathlib.Path(place) / "saved", pathlib.Path(place) / "work")
    described, arrays = folder.describe(pathlib.Path(place) / "saved", pipelines.SEED)
  shapes = {}
  for key, x in outputs.items():
    arrays[f"out_{key}"], step = recorded.sparse(np.asarray(x, np.float32))
    shapes[key] = [step, list(x.shape)]
  write(f"pipelines/{name}", dict(folder=described, outputs=shapes), arrays)


def record_schedulers():
  """Four states of each trajectory, and its times."""
  arrays = {}
  for name, (config, steps, options) in trajectories.recorded_cases().items():
    path, arrays[f"out_{name}/times"] = schedulers.original(config, steps, **options)
    arrays |= {f"out_{name}/{i}": path[i] for i in trajectories.kept(config, steps)}
  write("schedulers", {}, arrays)


if __name__ == "__main__":
  asked = lambda name: name in (sys.argv[1:] or [name])
  for each in filter(lambda row: asked(row.title), rows.ROWS):
    record(each)
  for each in filter(asked, record_pipelines.MAKERS):
    record_pipeline(each, record_pipelines.MAKERS[each])
  if asked("schedulers"):
    record_schedulers()
