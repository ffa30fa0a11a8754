"""The judge of directions agrees with what the data knows about itself."""

import numpy as np
import pytest

from tests.support import digit_clips
from vdm_jax.data import sources
from vdm_jax.worlds.moving_digits import builder as moving_digits
from vdm_jax.worlds.moving_digits import captions, directions


@pytest.fixture(scope="module")
def clips():
  return digit_clips.make(train=1500, test=400)


@pytest.fixture(scope="module")
def judge(clips):
  train = {k: clips["train"][k] for k in ("video", "label")}
  return directions.PromptScorer(sources.ArraySource(train), shares=(("digit", 7),))


def test_the_first_velocity_is_found_through_bounces():
  """Of the first digit from corner `start`."""
  canvas = digit_clips.CONFIG.canvas
  for start, velocity in (
    ((4.0, 4.0), (1.0, 0.5)),
    ((1.0, 6.5), (-1.4, 1.2)),  # meets both walls within two frames
    ((4.0, 2.0), (0.0, -1.7)),
  ):
    ends = np.array([start]), np.array([velocity])
    place = moving_digits.bounce_positions(*ends, 8, canvas - moving_digits.BOX)
    clip = moving_digits.render(np.array([0]), place, canvas)
    found = directions.first_velocity(clip)[0]
    np.testing.assert_allclose(found, velocity, atol=0.12)


def test_real_clips_go_where_they_are_said_to(clips):
  test = clips["test"]
  found = captions.direction_index(directions.first_velocity(test["video"]))
  said = captions.direction_index(test["velocity"])
  assert (found == said).mean() > 0.94
  # Negative control: mirrored, they go the mirrored way.
  mirrored = directions.first_velocity(test["video"][:, :, :, ::-1])
  right = captions.direction_index(mirrored) == (4 - said) % 8
  assert right.mean() > 0.94
  assert (captions.direction_index(mirrored) == said).mean() < 0.35


def test_the_judge_knows_what_was_asked_from_what_was_not(clips, judge):
  video = clips["test"]["video"]
  ways = captions.direction_index(clips["test"]["velocity"])
  pairs = zip(clips["test"]["label"], ways, strict=True)
  asked = [{"digit": int(label), "direction": int(way)} for label, way in pairs]
  figures = judge(video, asked)
  assert all(len(values) == len(video) for values in figures.values())
  assert figures["digit right"].mean() > 0.94 and figures["both right"].mean() > 0.88
  both = figures["digit right"] * figures["direction right"]
  np.testing.assert_array_equal(figures["both right"], both)
  sevens = np.mean([want["digit"] == 7 for want in asked])
  np.testing.assert_allclose(figures["digit is 7"].mean(), sevens, atol=0.03)
  # Negative control: what was asked of another clip.
  others = judge(video, asked[1:] + asked[:1])
  assert others["digit right"].mean() < 0.3 and others["both right"].mean() < 0.1


def test_what_was_not_asked_is_not_judged(clips, judge):
  video = clips["test"]["video"][:4]
  figures = judge(video, [{"digit": None, "direction": 2}] * 4)
  for name in ("digit right", "both right"):
    assert np.isnan(figures[name]).all()
  assert not np.isnan(figures["direction right"]).any()


def test_an_empty_clip_has_some_direction_without_a_crash():
  empty = np.zeros((2, 8, 16, 16, 3), np.uint8)
  assert np.isfinite(directions.first_velocity(empty)).all()
