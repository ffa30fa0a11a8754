"""The known methods for long videos come out in the order and the size they should.

The numbers are exact: 64 frames, a denoiser of 16, 64 Euler steps of rectified flow, an
AR(1) process of correlation 0.9, with and without a scene that all frames share.
"""

import jax
import numpy as np
import pytest

from experiments.exact_long_video import config as experiment
from tests.support import suite
from vdm_jax import config
from vdm_jax.diffusion import process as p
from vdm_jax.diffusion import schedules, times
from vdm_jax.diffusion.samplers import euler
from vdm_jax.oracle import rank

# {method: (distance, seam, memory)}; known from an independent implementation.
MOTION = {
  "the whole video at once": (0.00080, 0.94, 0.001),
  "the whole video, Heun": (0.0, 1.00, 0.001),
  "independent chunks": (0.0818, 9.5, 0.0),
  "windows, uniform": (0.0347, 2.7, 0.0),
  "windows, triangular": (0.0177, 1.09, 0.0),
  "FreeNoise": (0.71, 1.06, 0.21),
  "replacement, new noise": (0.0626, 3.7, 0.0),
  "extension, 8 given": (0.00056, 0.95, 0.001),
  "FIFO": (0.0261, 1.06, 0.0),
  "FIFO, look-ahead": (0.0154, 1.05, 0.0),
  "hierarchical": (0.00044, 0.95, 0.001),
}
SCENE = {
  "the whole video at once": (0.00117, 0.94, 0.292),
  "the whole video, Heun": (0.0, 1.00, 0.301),
  "independent chunks": (0.171, 13.5, 0.0),
  "windows, uniform": (0.094, 3.1, 0.0),
  "windows, triangular": (0.078, 1.1, 0.0),
  "FreeNoise": (0.466, 1.05, 0.438),
  "replacement, new noise": (0.125, 4.3, 0.0),
  "extension, 8 given": (0.0126, 0.95, 0.043),
  "extension, 12 given": (0.0108, 0.95, 0.052),
  "extension, first 4 and last 8": (0.0034, 0.95, 0.299),
  "extension, 12 ever farther": (0.0007, 0.95, 0.299),
  "FIFO": (0.081, 1.07, 0.0),
  "FIFO, look-ahead": (0.055, 1.05, 0.001),
  "hierarchical": (0.00076, 0.95, 0.299),
}


@pytest.fixture(scope="module")
def parts():
  return config.build(experiment.get_config().rank, workdir=".").keywords


TABLES = {"motion alone": MOTION, "motion and a scene": SCENE}
# Windows are FreeNoise's too; test_measure.py has the whole video at once.
QUICK = (
  "FreeNoise",
  "replacement, new noise",
  "extension, first 4 and last 8",
  "FIFO",
  "hierarchical",
)


@pytest.mark.parametrize("world", suite.choose(TABLES, "motion and a scene"))
def test_the_table_of_methods(parts, world):
  rows = TABLES[world]
  names = suite.choose(rows, *(name for name in QUICK if name in rows))
  table = {name: rows[name] for name in names}
  out = {}
  for name, (distance, seam, memory) in table.items():
    ts = parts["grid"](parts["process"])
    video, method = parts["worlds"][world], parts["methods"][name]
    out[name], _ = rank.scores_and_covariance(method, video, parts["process"], ts, 64)
    row = out[name]
    # There FIFO starts from a clip of another sampler, FreeNoise is another shuffle,
    # and the seams of uniform windows are counted at other frames.
    rtol = {"FIFO": 0.05, "FIFO, look-ahead": 0.12, "FreeNoise": 0.03}.get(name, 0.01)
    np.testing.assert_allclose(row["distance"], distance, rtol=rtol, atol=6e-5)
    tolerance = 0.08 if name == "windows, uniform" else 0.04
    np.testing.assert_allclose(row["seam"], seam, rtol=tolerance)
    np.testing.assert_allclose(row["memory"], memory, atol=0.01)
  order = sorted(table, key=lambda name: table[name][0])
  assert sorted(out, key=lambda name: out[name]["distance"]) == order
  if "replacement, own noise" in parts["methods"]:  # a gain over the published method
    method = parts["methods"]["replacement, own noise"]
    own, _ = rank.scores_and_covariance(method, video, parts["process"], ts, 64)
    assert own["distance"] < 0.7 * out["replacement, new noise"]["distance"]
    assert own["seam"] < 0.8 * out["replacement, new noise"]["seam"]


def test_a_causal_denoiser_is_right_only_frame_by_frame(parts):
  """32 frames: at one level it is far off and moves twice as much; lag heals it."""
  ts = times.uniform_grid(p.Flow(), num_steps=32)
  world = parts["worlds"]["motion and a scene"]

  def score(lag, **more):
    staggered = lambda grid, n: schedules.pyramid(grid, n, lag=lag)
    method = rank.LongVideoMethod(sampler=euler.euler, schedule=staggered, **more)
    return rank.scores_and_covariance(method, world, p.Flow(), ts, 32)[0]

  # Known from an independent implementation.
  known = dict([(0, 0.1365), (8, 0.0224), *suite.only_complete((32, 0.0024))])
  out = [score(lag, denoiser=rank.causal_denoiser) for lag in known]
  distance = [row["distance"] for row in out]
  np.testing.assert_allclose(distance, [*known.values()], rtol=0.02)
  np.testing.assert_allclose(out[0]["motion"], 2.12, rtol=5e-3)
  assert score(8)["distance"] < 0.004  # one that sees all needs no lag


def test_a_method_that_is_wrong_is_found_out(parts):
  """A sampler that forgets to scale its noise is far from the truth."""
  loud = lambda denoise, process, x, *rest: euler.euler(
    denoise, process, 1.5 * x, *rest
  )
  ts = times.uniform_grid(p.Flow(), num_steps=16)
  args = parts["worlds"]["motion alone"], p.Flow(), ts, 16
  wrong, _ = rank.scores_and_covariance(rank.LongVideoMethod(sampler=loud), *args)
  method = rank.LongVideoMethod(sampler=euler.euler)
  right, cov = rank.scores_and_covariance(method, *args)
  assert wrong["distance"] > 10 * right["distance"] and cov.shape == (16, 16)
  assert not jax.config.jax_enable_x64
