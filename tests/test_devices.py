"""The whole run, from clips to scores, is the same on one device and on two."""

import numpy as np
import pytest

from tests.support import child
from vdm_jax import log
from vdm_jax.programs import sample

pytestmark = [pytest.mark.long, pytest.mark.mesh]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
  """devices -> workdir of the tiny quickstart, run as a program."""
  made = {}
  for devices in (1, 2):
    workdir = tmp_path_factory.mktemp("devices") / str(devices)
    args = "--config=configs/quickstart.py:tiny", f"--workdir={workdir}"
    child.output(child.start("vdm_jax.main", *args, devices=devices))
    made[devices] = workdir
  return made


@pytest.mark.parametrize("folder", ["autoencoder", "denoiser"])
def test_losses_are_equal(runs, folder):
  one, two = (log.read_log(runs[n] / folder / "log.jsonl") for n in (1, 2))
  assert [r["step"] for r in one] == [r["step"] for r in two]
  losses = ([row["loss"] for row in rows] for rows in (one, two))
  np.testing.assert_allclose(*losses, rtol=2e-3)


def test_samples_are_equal(runs):
  one, two = (np.load(runs[n] / "samples" / sample.VIDEOS)["video"] for n in (1, 2))
  gap = np.abs(one.astype(int) - two)
  assert np.mean(gap) < 1.0 and np.mean(gap) < 0.05 * one.std()
