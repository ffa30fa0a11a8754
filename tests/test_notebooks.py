"""The notebooks run from their first cell to a video in the page, at tiny sizes."""

import json
import pathlib
import sys
import types

import numpy as np
import pytest

from tests.support.published import pipelines
from vdm_jax import video_io

ROOT = pathlib.Path(__file__).parent.parent
BOOKS = sorted((ROOT / "experiments" / "notebooks").glob("*.ipynb"))


def cells(path):
  """The source of each cell of code."""
  book = json.loads(path.read_text())
  return ["".join(c["source"]) for c in book["cells"] if c["cell_type"] == "code"]


def test_there_are_three_and_no_outputs():
  assert len(BOOKS) == 3
  for path in BOOKS:
    for cell in json.loads(path.read_text())["cells"]:
      assert not cell.get("outputs") and cell.get("execution_count") is None


@pytest.mark.complete
@pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.stem)
def test_a_notebook_shows_a_video(path, tmp_path, monkeypatch):
  shown = []
  page = types.ModuleType("IPython.display")
  page.Image = page.Video = lambda file, **_: pathlib.Path(file)
  page.display = lambda file: shown.append(file.read_bytes())
  whole = types.ModuleType("IPython")
  whole.version_info = (9, 0)  # which matplotlib asks for
  monkeypatch.setitem(sys.modules, "IPython", whole)
  monkeypatch.setitem(sys.modules, "IPython.display", page)
  monkeypatch.chdir(tmp_path)
  if "Latte-1" in path.read_text():
    pipelines.write("latte", tmp_path / "Latte-1")
  clips = np.random.default_rng(0).integers(0, 256, (3, 20, 8, 8, 3), np.uint8)
  (tmp_path / "clips").mkdir()
  for i, clip in enumerate(clips):
    video_io.write_mp4(tmp_path / "clips" / f"{i}.mp4", clip, scale=8)
  scope = {}
  for cell in cells(path):
    small = cell.replace('VARIANT = "full"', 'VARIANT = "tiny"')
    small = small.replace('VARIANT = "cpu"', 'VARIANT = "tiny"')
    small = small.replace("FRAMES, STEPS = 16, 50", "FRAMES, STEPS = 3, 2")
    code = [line for line in small.splitlines() if line[:1] not in ("%", "!")]
    exec(compile("\n".join(code), path.name, "exec"), scope)
  assert shown and all(len(data) > 500 for data in shown)
