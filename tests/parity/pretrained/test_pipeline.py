"""Published pipelines, whole, as diffusers: more steps and networks than are recorded.

diffusers' pipelines run as they are, on small networks with random weights; ours opens
the folder that they save.
"""

import jax
import pytest

import vdm_jax
from tests.parity import pipelines, record_pipelines
from tests.support import parity_table
from tests.support.published import pipelines as published
from tests.support.suite import seeds

UNETS = ("stable_diffusion", "motion", "animatediff", "text_to_video", "svd", "i2vgen")
SEEDS = seeds(len(pipelines.SCHEDULERS))
CASES = [(name, 10, {}) for name in UNETS] + [
  (name, 50, dict(seed=seed)) for name in ("latte", "dit") for seed in SEEDS
]


@pytest.mark.parametrize("name, steps, options", CASES)
def test_ours_makes_what_theirs_makes(name, steps, options, tmp_path, record_property):
  folders = {name: tmp_path / name, "images": tmp_path / "work" / "images"}
  folders[name].mkdir()
  make = record_pipelines.MAKERS[name]
  theirs = make(folders[name], tmp_path / "work", steps, **options)
  for key, error, control in published.check(name, folders.get, theirs, steps):
    bound, unit = published.BOUND, "max\\|ref\\|"
    if "frames" in key:
      bound, unit = 1.0, "of 255"
    row = f"{name} of diffusers, {key}, {steps} steps"
    found = dict(error=error * bound, bound=bound, control=control, unit=unit)
    parity_table.note(record_property, row, **found)
  if name == "animatediff":  # the autoencoder's size
    call = dict(key=jax.random.key(0), steps=1, num_frames=2)
    assert vdm_jax.load(folders[name])(["a"], **call).shape == (1, 2, 16, 16, 3)
