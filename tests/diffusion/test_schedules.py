"""Schedule matrices fall, end at the data and go where the grid goes."""

import numpy as np
import pytest

from tests.support.refusals import refused
from vdm_jax.diffusion import schedules

GRID = np.array([1.0, 0.7, 0.3, 0.0], np.float32)
T = 5
MATRICES = {
  "full": schedules.full_sequence(GRID, T),
  "autoregressive": schedules.autoregressive(GRID, T),
  "blocks": schedules.autoregressive(GRID, T, block=2),
  "pyramid": schedules.pyramid(GRID, T, lag=2),
  "given": schedules.hold_known(schedules.full_sequence(GRID, T), np.arange(T) < 2),
}


@pytest.mark.parametrize("matrix", MATRICES.values(), ids=MATRICES.keys())
def test_columns_never_rise_and_end_at_the_data(matrix):
  assert matrix.shape[1] == T and matrix.dtype == np.float32
  assert (np.diff(matrix, axis=0) <= 0).all()
  assert (matrix[-1] == 0).all()
  assert np.diff(matrix, axis=0).any(axis=1).all()  # no step in which all frames wait


@pytest.mark.parametrize("name", ["full", "autoregressive", "blocks", "pyramid"])
def test_every_frame_walks_the_whole_grid(name):
  for column in MATRICES[name].T:
    moving = column[np.append(True, np.diff(column) != 0)]
    np.testing.assert_array_equal(moving, GRID)
    assert name != "full" or len(column) == len(GRID)


def test_autoregressive_starts_a_frame_when_the_one_before_is_clean():
  matrix = MATRICES["autoregressive"]
  assert len(matrix) == 3 * T + 1
  for before, after in zip(matrix.T[:-1], matrix.T[1:], strict=True):
    assert (before[after < 1.0] == 0).all()
  blocks = MATRICES["blocks"]
  assert len(blocks) == 3 * 3 + 1
  np.testing.assert_array_equal(blocks[:, 0], blocks[:, 1])
  assert (blocks[:, 0] != blocks[:, 2]).any()


def test_a_pyramid_is_staggered_by_its_lag():
  columns = [1.0, 0.7, 0.3, 0, 0, 0], [1.0, 1, 0.7, 0.3, 0, 0], [1.0, 1, 1, 0.7, 0.3, 0]
  expected = np.array(columns, np.float32).T
  np.testing.assert_array_equal(schedules.pyramid(GRID, 3, lag=1), expected)


def test_given_frames_are_clean_throughout():
  matrix = MATRICES["given"]
  assert (matrix[:, :2] == 0).all()
  np.testing.assert_array_equal(matrix[:, 2:], MATRICES["full"][:, 2:])


def test_wrong_sizes_are_refused():
  calls = {
    "lag=4": lambda: schedules.pyramid(GRID, T, lag=4),
    "num_frames=0": lambda: schedules.full_sequence(GRID, 0),
    "at least one step": lambda: schedules.full_sequence(GRID[:1], T),
    "differ in frames": lambda: schedules.hold_known(MATRICES["full"], [False] * 4),
  }
  refused(ValueError, calls)
