"""Random crops reach every place, alike in all frames and keys, from the rng alone."""

import numpy as np
import pytest

from vdm_jax.data import crops, decode


def places(height=5, width=6, num_frames=3):
  """A clip whose pixels say where they are: (frame, row, column)."""
  where = np.stack(np.indices((num_frames, height, width)), -1)
  return {"video": where.astype(np.uint8), "label": 7}


def draws(transform, record, count=200):
  return [transform(record, np.random.default_rng(seed)) for seed in range(count)]


def test_a_square_is_anywhere_and_the_same_in_all_frames():
  found = set()
  for drawn in draws(crops.RandomCrop(4), places()):
    video = drawn["video"]
    assert video.shape == (3, 4, 4, 3) and drawn["label"] == 7
    top, left = video[0, 0, 0, 1:]
    assert (video == places()["video"][:, top : top + 4, left : left + 4]).all()
    found.add((int(top), int(left)))
  assert found == {(top, left) for top in range(2) for left in range(3)}


def test_a_stretch_is_anywhere_and_the_same_for_all_keys():
  mean = np.arange(6)[:, None]
  record = {"mean": mean, "logvar": -mean, "label": np.arange(6)}
  found = set()
  for drawn in draws(crops.TemporalRandomCrop(4), record):
    start = int(drawn["mean"][0, 0])
    assert drawn["mean"][:, 0].tolist() == list(range(start, start + 4))
    assert (drawn["logvar"] == -drawn["mean"]).all()
    assert len(drawn["label"]) == 6  # has no time
    found.add(start)
  assert found == {0, 1, 2}


def test_the_part_comes_from_the_rng_alone():
  for crop in (crops.RandomCrop(3), crops.TemporalRandomCrop(2)):
    one, two = (crop(places(), np.random.default_rng(5)) for _ in range(2))
    assert np.array_equal(one["video"], two["video"])


def test_the_whole_is_a_part_and_more_is_refused():
  whole = crops.RandomCrop(5)(places(5, 5), np.random.default_rng(0))
  assert np.array_equal(whole["video"], places(5, 5)["video"])
  with pytest.raises(decode.BadClipError, match="5 x 6 pixels, smaller than .* 6 x 6"):
    crops.RandomCrop(6)(places(), np.random.default_rng(0))
  with pytest.raises(decode.BadClipError, match="holds 3 frames; 4 at .* need 4"):
    crops.TemporalRandomCrop(4)(places(), np.random.default_rng(0))
  with pytest.raises(KeyError, match="wanted one length"):
    crops.TemporalRandomCrop(1)({"label": 3}, np.random.default_rng(0))
  for make in (crops.RandomCrop, crops.TemporalRandomCrop):
    with pytest.raises(ValueError, match="=0: wanted at least 1"):
      make(0)
