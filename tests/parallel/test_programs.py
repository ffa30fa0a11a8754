"""Programs write the same on one device, on eight, and in two processes."""

import json

import numpy as np
import pytest

from tests.parallel import program_cases
from tests.support import child
from vdm_jax.data import records, sources
from vdm_jax.programs import sample

pytestmark = pytest.mark.mesh
CASES = "parallel.program_cases"
MANY = ("eight devices", "two processes")
TEXT_MASK = "text_mask"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
  """{name: (workdir, what the process, or the first one, says)}."""
  folder = tmp_path_factory.mktemp("parallel")
  place = {name: folder / name.replace(" ", "-") for name in ("one", *MANY)}
  found = {
    "one": child.results(CASES, place["one"], json.dumps({})),
    MANY[0]: child.results(
      CASES, place[MANY[0]], json.dumps(dict(fsdp=2, seq=2, tensor=2))
    ),
    MANY[1]: child.results_together(
      CASES, place[MANY[1]], json.dumps(dict(data=2, tensor=2)), processes=2, devices=2
    )[0],
  }
  return {name: (place[name], found[name]) for name in found}


def held(workdir, folder):
  """Everything in a folder of records, without the latents' normalisation."""
  return sources.in_memory(sources.RecordFolder(workdir / folder)).arrays


@pytest.mark.parametrize("name", MANY)
def test_latents_are_the_same_and_in_the_same_order(runs, name):
  one, many = (held(runs[n][0], "latents") for n in ("one", name))
  assert len(many["mean"]) == program_cases.CLIPS
  np.testing.assert_array_equal(one["label"], many["label"])
  for key in ("mean", "logvar"):  # kept in float16
    np.testing.assert_allclose(one[key], many[key], rtol=1e-3, atol=1e-3)
  assert np.abs(one["mean"] - many["mean"][::-1]).max() > 0.1  # the control
  metas = [records.read_meta(runs[n][0] / "latents") for n in ("one", name)]
  for key in ("settings", "spec", "shift", "scale", "classes"):
    assert metas[0][key] == metas[1][key]


@pytest.mark.parametrize("name", MANY)
def test_texts_are_the_same(runs, name):
  one, many = (held(runs[n][0], "texts") for n in ("one", name))
  np.testing.assert_array_equal(one[TEXT_MASK], many[TEXT_MASK])
  np.testing.assert_allclose(one["text"], many["text"], rtol=2e-3, atol=2e-3)
  assert len(many["text"]) == len(program_cases.TEXTS)


@pytest.mark.parametrize("name", MANY)
def test_videos_are_the_same(runs, name):
  one, many = (
    np.load(runs[n][0] / "samples" / sample.VIDEOS)["video"].astype(int)
    for n in ("one", name)
  )
  assert one.shape == many.shape and len(one) == program_cases.CLIPS
  assert np.abs(one - many).max() <= 1  # where rounding decides
  assert np.mean(one != many) < 1e-3
  assert np.mean(one != many[::-1]) > 0.1  # the control


@pytest.mark.parametrize("name", MANY)
def test_measures_are_the_same(runs, name):
  one, many = (
    json.loads((runs[n][0] / "metrics.json").read_text()) for n in ("one", name)
  )
  values = [
    [row["samples"]["value"] for row in scores.values()] for scores in (one, many)
  ]
  assert len(set(values[0])) == program_cases.CLIPS  # each another one
  np.testing.assert_allclose(*values, atol=0.01)


def test_each_device_has_rows_of_its_own(runs):
  assert runs["one"][1]["rows"] == [[0]]
  assert runs["eight devices"][1]["rows"] == [[i] for i in range(8)]
  assert runs["two processes"][1]["rows"] == [[0], [1]]


@pytest.mark.parametrize("name", MANY)
def test_nothing_is_left_beside_the_folders(runs, name):
  left = [path.name for path in runs[name][0].iterdir() if path.name.startswith(".")]
  assert left == []
