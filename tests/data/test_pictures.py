"""Pictures beside a clip are frames of other clips, with those clips' labels."""

import numpy as np
import pytest

from vdm_jax.data import loader, pictures, sources

CLIPS, T = 6, 4


def source():
  """The value of a pixel says its clip and its frame."""
  value = 10.0 * np.arange(CLIPS)[:, None] + np.arange(T)
  mean = np.broadcast_to(value[:, :, None, None, None], (CLIPS, T, 2, 2, 3))
  return sources.ArraySource(
    {"mean": mean, "logvar": -mean, "label": np.arange(CLIPS, dtype=np.int32)}
  )


def test_pictures_are_frames_of_other_clips():
  data, seen = pictures.WithRandomFrames(source(), 3), set()
  for i in range(CLIPS):
    for seed in range(8):
      drawn = data.load(i, np.random.default_rng(seed))["pictures"]
      assert drawn["mean"].shape == (3, 2, 2, 3)
      np.testing.assert_array_equal(drawn["logvar"], -drawn["mean"])
      clip, frame = np.divmod(drawn["mean"][:, 0, 0, 0], 10)
      np.testing.assert_array_equal(drawn["label"], clip)
      assert i not in clip
      seen |= set(zip(clip, frame, strict=True))
  assert len(seen) == CLIPS * T
  again = [data.load(2, np.random.default_rng(5))["pictures"]["mean"] for _ in range(2)]
  np.testing.assert_array_equal(*again)


def test_they_come_through_the_loader_anew_in_each_epoch():
  data = loader.Loader(pictures.WithRandomFrames(source(), 2), 3, shuffle=False)
  batches = iter(data)
  epochs = [[next(batches)["pictures"]["mean"] for _ in range(2)] for _ in range(2)]
  assert epochs[0][0].shape == (3, 2, 2, 2, 3)
  assert not np.array_equal(epochs[0], epochs[1])


def test_too_few_are_refused():
  for count, clips in ((0, source()), (1, sources.Subset(source(), 0, 1))):
    with pytest.raises(ValueError, match="two clips"):
      pictures.WithRandomFrames(clips, count)


def test_a_share_of_clips_is_told_to_be_pictures():
  flag = pictures.AddImageOnlyFlag(rate=0.25)
  rng = np.random.default_rng(0)
  record = {"latents": np.zeros((3, 2, 2, 1))}
  flags = np.array([flag(record, rng)["image_only"] for _ in range(4000)])
  assert flags.dtype == np.float32 and set(flags) == {0.0, 1.0}
  assert abs(flags.mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 4000)
  assert "image_only" not in record
  for rate in (-0.1, 1.1):
    with pytest.raises(ValueError, match=f"rate={rate} must be a share"):
      pictures.AddImageOnlyFlag(rate=rate)
