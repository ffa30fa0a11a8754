"""The toy data set is what it says: real digits, exact motion, unseen test writing."""

import functools
import pathlib

import numpy as np
import pytest
from sklearn import datasets

from tests.support.refusals import refused
from vdm_jax.data import sources
from vdm_jax.worlds.moving_digits import builder as moving_digits

KEYS = ("video", "label", "position", "velocity", "digit")
SETTINGS = dict(train_clips=120, test_clips=40)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
  return moving_digits.build(tmp_path_factory.mktemp("tfds"), **SETTINGS)


@pytest.fixture(scope="module")
def train(built):
  return sources.in_memory(sources.Tfds(built, "train", keys=KEYS)).arrays


@pytest.fixture(scope="module")
def test(built):
  return sources.in_memory(sources.Tfds(built, "test", keys=KEYS)).arrays


def centre_of_mass(video):
  """[N, T, 2] (y, x) in pixels."""
  mass = video[..., 0].astype(np.float64)
  places = np.arange(mass.shape[-1])
  y = np.einsum("nthw,h->nt", mass, places) / mass.sum((2, 3))
  x = np.einsum("nthw,w->nt", mass, places) / mass.sum((2, 3))
  return np.stack([y, x], axis=-1)


def test_the_two_splits_have_the_asked_sizes_and_types(train, test):
  assert train["video"].shape == (120, 8, 16, 16, 3)
  assert test["video"].shape == (40, 8, 16, 16, 3)
  assert train["video"].dtype == np.uint8 and train["label"].dtype == np.int32
  assert train["position"].shape == (120, 8, 2) and train["velocity"].shape == (120, 2)


def test_splits_share_no_digit_image(train, test):
  for seed in (0, 1):
    fit, held = moving_digits.split_digits(seed)
    assert not set(fit) & set(held)
    assert len(fit) + len(held) == 1797 and len(held) == 360
    counts = np.bincount(datasets.load_digits().target[held])
    assert len(counts) == 10 and counts.min() > 30
  assert not set(train["digit"]) & set(test["digit"])
  assert set(train["digit"]) <= set(moving_digits.split_digits(0)[0])


def test_the_label_is_the_digit_that_is_drawn(train):
  scans = datasets.load_digits()
  assert np.array_equal(train["label"], scans.target[train["digit"]])
  # Undo the motion: at a whole-pixel place the scan stands in the frame unchanged.
  whole = np.zeros((3, 1, 2))
  whole[:, 0] = (3, 5)
  drawn = moving_digits.render(np.array([0, 7, 99]), whole, 16)
  expected = np.rint(scans.images[[0, 7, 99]] * 255 / 16)
  assert np.array_equal(drawn[:, 0, 3:11, 5:13, 0], expected)
  assert drawn.sum() == 3 * expected.sum()


def test_boxes_stay_inside_and_every_pixel_is_grey(train):
  assert train["position"].min() >= 0 and train["position"].max() <= 16 - 8
  assert np.array_equal(train["video"][..., 0], train["video"][..., 2])
  ink = train["video"].astype(float).sum((2, 3, 4))
  scans = datasets.load_digits().images[train["digit"]].sum((1, 2)) * 3 * 255 / 16
  assert np.abs(ink / scans[:, None] - 1).max() < 0.01  # nothing falls off the canvas


def test_speed_is_constant_between_bounces(train):
  steps = np.diff(train["position"], axis=1)  # [N, T-1, 2]
  speed = np.abs(train["velocity"])[:, None]
  free = np.abs(np.abs(steps) - speed) < 1e-4
  # A step that is not free touched a wall within it: it began or ended near one.
  near = np.minimum(train["position"], 8 - train["position"])
  at_wall = np.minimum(near[:, 1:], near[:, :-1]) <= speed / 2 + 1e-4
  assert np.all(free | at_wall)
  assert 0.5 < free.mean() < 1  # both kinds occur
  # Against the wall the direction turns; without a wall it never does.
  turns = steps[:, 1:] * steps[:, :-1] < 0
  off_wall = free & ~at_wall
  assert not np.any(turns & off_wall[:, 1:] & off_wall[:, :-1])


def test_speeds_lie_in_the_range_and_nothing_is_static(train):
  speed = np.linalg.norm(train["velocity"], axis=-1)
  assert speed.min() >= 0.75 and speed.max() <= 2.0
  assert speed.max() - speed.min() > 0.8  # the range is used
  # A step may end where it began when it bounces half-way; a clip may not.
  moved = np.abs(train["position"] - train["position"][:, :1]).max((1, 2))
  assert moved.min() > 1.5


def test_the_centre_of_mass_moves_with_the_box(train):
  offset = centre_of_mass(train["video"]) - train["position"]
  drift = np.abs(offset - offset[:, :1]).max()
  assert drift < 0.03  # rounding to 8 bits is all that is left
  # Negative control: placement at whole pixels would be off by half a pixel.
  whole = moving_digits.render(train["digit"], np.rint(train["position"]), 16)
  offset = centre_of_mass(whole) - train["position"]
  assert np.abs(offset - offset[:, :1]).max() > 0.3


def test_bounce_is_the_mirror_law():
  start, velocity = np.array([[7.0, 1.0]]), np.array([[1.5, -1.5]])
  path = moving_digits.bounce_positions(start, velocity, 4, 8)
  np.testing.assert_allclose(path[0, :, 0], [7.0, 7.5, 6.0, 4.5])
  np.testing.assert_allclose(path[0, :, 1], [1.0, 0.5, 2.0, 3.5])


def test_a_box_at_the_wall_is_whole():
  corners = np.array([[[8.0, 8.0], [0.0, 8.0]]])
  video = moving_digits.render(np.array([3]), corners, 16)
  assert np.array_equal(video[0, 0, 8:, 8:], video[0, 1, :8, 8:])
  assert video[0, 0].any()


def test_the_same_seed_builds_the_same_bytes(built, tmp_path):
  again = moving_digits.build(tmp_path, **SETTINGS)
  other = moving_digits.build(tmp_path, **SETTINGS, seed=1)
  first, second, third = (
    sources.in_memory(sources.Tfds(b, "test")).arrays for b in (built, again, other)
  )
  assert np.array_equal(first["video"], second["video"])
  assert not np.array_equal(first["video"], third["video"])
  assert other.data_dir != again.data_dir


def test_a_second_build_writes_nothing(built):
  files = [p for p in pathlib.Path(built.data_dir).rglob("*") if p.is_file()]
  times = [p.stat().st_mtime_ns for p in files]
  again = moving_digits.build(pathlib.Path(built.data_dir).parents[2], **SETTINGS)
  assert again.data_dir == built.data_dir
  assert [p.stat().st_mtime_ns for p in files] == times


def test_every_label_occurs_about_equally_often(train):
  counts = np.bincount(train["label"], minlength=10)
  assert counts.min() >= 5 and len(counts) == 10
  assert len(set(train["digit"])) == 120  # no image twice before all were used


def test_settings_that_make_no_clips_are_refused(tmp_path):
  build = functools.partial(moving_digits.build, tmp_path)
  calls = {
    "canvas=8": lambda: build(canvas=8),
    "speeds 0.0": lambda: build(min_speed=0.0),
    "20.0": lambda: build(max_speed=20.0),
    "num_frames=0": lambda: build(num_frames=0),
    "train_clips=0": lambda: build(train_clips=0),
  }
  refused(ValueError, calls)


def test_another_canvas_and_length(tmp_path):
  built = moving_digits.build(
    tmp_path, canvas=24, num_frames=11, train_clips=5, test_clips=3, max_speed=3.0
  )
  assert sources.Tfds(built, "test")[2]["video"].shape == (11, 24, 24, 3)
