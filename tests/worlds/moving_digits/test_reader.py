"""The judge of moving digits agrees with what the data knows about itself."""

import numpy as np
import pytest

from tests.support import digit_clips
from vdm_jax.data import sources
from vdm_jax.worlds.moving_digits import builder as moving_digits
from vdm_jax.worlds.moving_digits import reader as digits


@pytest.fixture(scope="module")
def clips():
  return digit_clips.make(train=2000, test=200)


def test_the_centre_of_mass_moves_as_the_box_does(clips):
  test = clips["test"]
  middle = digits.centres_of_mass(test["video"]) - test["position"]
  # What is left is each digit's own offset, the same in all frames but for faint ink.
  spread = middle - middle.mean(1, keepdims=True)
  assert np.abs(spread).max() < 0.4
  assert np.sqrt(np.square(spread).mean()) < 0.05


def test_held_out_digits_are_read(clips):
  classifier = digits.DigitClassifier(clips["train"]["video"], clips["train"]["label"])
  right = classifier.classify(clips["test"]["video"]) == clips["test"]["label"]
  assert right.mean() > 0.95
  # Negative control: the classifier does not know what it was not shown.
  noise = np.random.default_rng(1).integers(0, 256, clips["test"]["video"].shape)
  right = classifier.classify(noise.astype(np.uint8)) == clips["test"]["label"]
  assert right.mean() < 0.3


def test_clips_that_jump_or_stand_are_told_from_real_ones(clips):
  video = clips["test"]["video"][:40]
  order = np.random.default_rng(0).permutation(video.shape[1])
  assert np.median(digits.motion_error(video[:, order])) > 0.5
  frozen = np.repeat(video[:, :1], video.shape[1], 1)
  assert digits.mean_speed(frozen).max() < 1e-6
  assert digits.mean_speed(video).min() > 0.3


def test_an_empty_clip_is_judged_without_a_crash():
  empty = np.zeros((2, 8, 16, 16, 3), np.uint8)
  np.testing.assert_allclose(digits.centres_of_mass(empty), 7.5)
  assert np.isfinite(digits.motion_error(empty)).all()


@pytest.mark.parametrize("num_frames", [8, 24, 64])
def test_real_trajectories_of_any_length_are_legal(num_frames):
  _, test = moving_digits.split_digits()
  config = moving_digits.MovingDigitsConfig(num_frames=num_frames)
  made = moving_digits.sample_trajectories(np.random.default_rng(2), test, 10, config)
  video = moving_digits.render(made["digit"], made["position"], config.canvas)
  errors = digits.motion_error(video)
  assert np.median(errors) < 0.06 and errors.max() < 0.3
  # Negative control: another flight from the middle on.
  half = num_frames // 2
  broken = np.concatenate([video[:, :half], video[::-1, half:]], axis=1)
  assert np.median(digits.motion_error(broken)) > 5 * np.median(errors)


def test_the_judge_knows_a_true_clip_from_one_that_went_elsewhere(clips):
  train, test = clips["train"], clips["test"]
  source = sources.ArraySource({"video": train["video"], "label": train["label"]})
  judge = digits.CompletionScorer(source)
  mask = np.arange(digit_clips.CONFIG.num_frames) < 2
  part = {k: test[k][:50] for k in ("video", "label")}
  true = judge(part["video"], part["video"], part["label"], mask)
  assert true["read right"] > 0.9 and true["psnr (dB)"] == 100
  assert true["path error (pixels)"] == 0.0

  moved = part["video"].copy()
  moved[:, 5:] = np.roll(moved[:, 5:], 2, axis=2)  # two pixels down, or out and in
  off = judge(moved, part["video"], part["label"], mask)
  by_frame = off["path error by frame"]
  assert by_frame[:5] == [0.0] * 5 and min(by_frame[5:]) > 1.0
  np.testing.assert_allclose(off["path error (pixels)"], 3 / 6 * 2.0, atol=0.1)

  others = judge(part["video"], part["video"], (part["label"] + 1) % 10, mask)
  assert others["read right"] < 0.1 and max(others["read right by frame"]) < 0.2


def test_given_frames_are_not_judged(clips):
  video = clips["test"]["video"][:5]
  mask = np.arange(digit_clips.CONFIG.num_frames) < 3
  spoilt = video.copy()
  spoilt[:, :3] = 0
  assert not digits.path_error(spoilt, video, mask).any()
  assert digits.path_error(spoilt, video, ~mask)[:, :3].min() > 0


def test_handwriting_changes_where_another_digit_comes_and_not_where_one_moves():
  rng = np.random.default_rng(0)
  at = moving_digits.sample_trajectories(
    rng, np.arange(40), 8, moving_digits.MovingDigitsConfig(num_frames=6)
  )
  videos = moving_digits.render(at["digit"], at["position"], 16)
  same = digits.handwriting_change(videos)
  assert same.shape == (8, 6)
  mixed = videos.copy()
  mixed[:, 3:] = videos[::-1, 3:]
  other = digits.handwriting_change(mixed, num_reference_frames=3)
  assert other[:, 3:].mean() > 3 * same.mean() and other[:, :3].max() < 3 * same.max()
