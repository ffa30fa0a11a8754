"""Each transform does the one thing its name says, to all frames alike."""

import numpy as np
import pytest

from vdm_jax.data import decode, transforms


def record(num_frames=6, height=24, width=32):
  rng = np.random.default_rng(0)
  video = rng.integers(0, 256, (num_frames, height, width, 3), dtype=np.uint8)
  return {"video": video, "label": np.int32(3)}


def test_a_clip_is_every_nth_frame_from_a_start_in_range():
  whole, starts = record(10), set()
  whole["video"][:, 0, 0, 0] = np.arange(10)
  for seed in range(40):
    cut = transforms.SampleFrames(3, interval=3)(whole, np.random.default_rng(seed))
    numbers = cut["video"][:, 0, 0, 0].tolist()
    assert numbers == [numbers[0], numbers[0] + 3, numbers[0] + 6]
    starts.add(numbers[0])
  assert starts == {0, 1, 2, 3}
  centre = transforms.SampleFrames(2, start="centre")(whole, None)
  assert centre["video"][:, 0, 0, 0].tolist() == [4, 5]
  with pytest.raises(decode.BadClipError, match="holds 10 frames; 4 at .* 4 need 13"):
    transforms.SampleFrames(4, interval=4)(whole, None)
  with pytest.raises(ValueError, match="'last'"):
    transforms.SampleFrames(4, start="last")


def test_a_paced_clip_tells_the_frame_rate_that_it_has():
  """Moments of latents are cut alike, and what is not frames is left alone."""
  whole, seen = record(10), set()
  whole |= {"mean": np.arange(10.0)[:, None], "logvar": -np.arange(10.0)[:, None]}
  paced = transforms.RandomFrameRate(3, intervals=(1, 4), fps=8.0)
  for seed in range(60):
    cut = paced(whole, np.random.default_rng(seed))
    numbers = cut["mean"][:, 0].tolist()
    interval = int(8.0 / cut["fps"])
    assert cut["fps"].dtype == np.float32 and interval in (1, 4)
    assert np.diff(numbers).tolist() == [interval] * 2
    np.testing.assert_array_equal(cut["logvar"], -cut["mean"])
    frames = cut["mean"][:, 0].astype(int)
    np.testing.assert_array_equal(cut["video"], whole["video"][frames])
    assert cut["label"] == 3
    seen.add((interval, int(numbers[0])))
  assert seen == {(1, i) for i in range(8)} | {(4, 0), (4, 1)}
  with pytest.raises(decode.BadClipError, match="holds 10 frames; 4 at .* 4 need 13"):
    transforms.RandomFrameRate(4, intervals=(4,), fps=8.0)(
      whole, np.random.default_rng(0)
    )


def test_resize_brings_the_short_side_to_size():
  for size, shape in (
    ((24, 32), (12, 16)),
    ((32, 24), (16, 12)),
    ((25, 37), (12, 18)),
    ((9, 9), (12, 12)),
  ):
    resized = transforms.Resize(12)(record(2, *size), None)
    assert resized["video"].shape[1:3] == shape
    assert resized["video"].dtype == np.uint8 and resized["label"] == 3


def test_a_small_copy_holds_the_means():
  whole = record(2, 8, 12)
  out = transforms.AddLowResolution(4)(whole, None)
  assert out["low"].shape == (2, 2, 3, 3) and out["low"].dtype == np.uint8
  np.testing.assert_array_equal(out["video"], whole["video"])
  block = whole["video"][1, 4:8, 8:12, 2].astype(float)
  assert abs(out["low"][1, 1, 2, 2] - block.mean()) <= 0.5
  with pytest.raises(ValueError, match="3 x 3 does not divide videos of 8 x 12"):
    transforms.AddLowResolution(3)(whole, None)


def test_resize_is_antialiased_and_keeps_what_fits():
  fine = np.zeros((1, 32, 32, 3), np.uint8)
  fine[:, :, ::2] = 255  # finer than the target can show: its mean must remain
  small = transforms.Resize(8)({"video": fine}, None)["video"]
  assert np.abs(small[:, :, 1:-1].astype(int) - 128).max() < 10
  same = record()
  assert transforms.Resize(24)(same, None) is same


def test_centre_crop_cuts_the_middle():
  whole = record()
  cut = transforms.CentreCrop(10, 20)(whole, None)["video"]
  assert np.array_equal(cut, whole["video"][:, 7:17, 6:26])
  assert transforms.CentreCrop(24)(whole, None)["video"].shape == (6, 24, 24, 3)
  with pytest.raises(decode.BadClipError, match="24 x 32 .* than the crop of 30"):
    transforms.CentreCrop(30)(whole, None)


def test_a_flip_mirrors_all_frames_alike_in_its_share_of_clips():
  whole, flipped = record(), 0
  for seed in range(200):
    video = transforms.RandomFlip(0.3)(whole, np.random.default_rng(seed))["video"]
    mirrored = np.array_equal(video, whole["video"][:, :, ::-1])
    assert mirrored or np.array_equal(video, whole["video"])
    flipped += mirrored
  assert 40 <= flipped <= 80


def test_floats_go_from_minus_one_to_one():
  video = np.array([0, 255], np.uint8).reshape(1, 1, 2, 1)
  out = transforms.ToFloat()({"video": video}, None)["video"]
  assert out.dtype == np.float32 and out.ravel().tolist() == [-1.0, 1.0]


def test_latents_stand_in_for_a_video():
  mean = np.ones((2, 4, 4, 8), np.float16)
  out = transforms.LatentMeanToVideo()({"mean": mean, "logvar": mean, "label": 3}, None)
  assert sorted(out) == ["label", "video"] and out["label"] == 3
  assert out["video"].dtype == np.float32 and np.array_equal(out["video"], mean)


def test_keep_drops_the_rest_and_names_what_is_absent():
  assert sorted(transforms.SelectKeys(("video",))(record(), None)) == ["video"]
  with pytest.raises(KeyError, match="no .'text'.; it has .'label', 'video'"):
    transforms.SelectKeys(("text",))(record(), None)


def test_transforms_leave_their_input_alone():
  whole = record()
  before = whole["video"].copy()
  for transform in (
    transforms.SampleFrames(3),
    transforms.Resize(12),
    transforms.CentreCrop(8),
    transforms.RandomFlip(1.0),
    transforms.ToFloat(),
  ):
    transform(whole, np.random.default_rng(0))
  assert np.array_equal(whole["video"], before)
