"""Flicker and motion of clips whose changes are known."""

import numpy as np
import pytest

from vdm_jax.metrics import temporal


def clip(change, share=1.0):
  """Two frames of 10 x 10 of which `share` of the pixels change by `change`."""
  video = np.zeros((1, 2, 10, 10, 3), np.uint8)
  video[0, 1].reshape(100, 3)[: int(100 * share)] = change
  return video


def test_flicker_is_the_mean_change():
  np.testing.assert_allclose(temporal.flicker(clip(10, 0.3)), 3.0)
  assert temporal.flicker(clip(0)) == 0.0


def test_motion_listens_to_the_pixels_that_change_most():
  np.testing.assert_allclose(temporal.top_pixel_change(clip(200, 0.05)), 200.0)
  np.testing.assert_allclose(temporal.top_pixel_change(clip(200, 0.01)), 40.0)


def test_moving_clip_fraction_is_the_share_of_clips_that_move():
  videos = np.concatenate([clip(200, 0.05), clip(3), clip(0), clip(7)])
  assert temporal.moving_clip_fraction(videos) == 0.5


def test_floats_and_single_frames_are_refused():
  with pytest.raises(ValueError, match="uint8"):
    temporal.flicker(clip(1).astype(np.float32))
  with pytest.raises(ValueError, match="2 frames"):
    temporal.flicker(clip(1)[:, :1])


def walk(changes):
  """One clip whose brightness rises by these changes."""
  levels = np.concatenate([[0], np.cumsum(changes)]).astype(np.uint8)
  return np.broadcast_to(levels[None, :, None, None, None], (1, len(levels), 4, 4, 3))


def test_a_seam_is_found_where_windows_meet():
  changes = np.ones(11)
  changes[[3, 5, 7, 9]] = 3  # windows of 4 frames, 2 of them new after the first
  ratio = temporal.seam_ratio(walk(changes), window=4, overlap=2)
  np.testing.assert_allclose(ratio, 3.0)
  # Other windows do not end there: a control.
  assert temporal.seam_ratio(walk(changes), window=3, overlap=1) < 0.7
  even = temporal.seam_ratio(walk(np.ones(11)), window=4, overlap=2)
  np.testing.assert_allclose(even, 1.0)
  with pytest.raises(ValueError, match="no seam"):
    temporal.seam_ratio(walk(np.ones(3)), window=4, overlap=2)


def test_drift_is_the_change_of_the_mean():
  np.testing.assert_allclose(temporal.colour_drift(walk(np.ones(9)), window=2), 8.0)
  assert temporal.colour_drift(walk(np.zeros(9)), window=2) == 0.0
