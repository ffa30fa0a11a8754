"""The original's folders of frames become a TFDS data set, byte for byte."""

import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from vdm_jax import video_io
from vdm_jax.data import sources
from vdm_jax.data.builders import sky_timelapse

ROOT = pathlib.Path(__file__).resolve().parents[3]
GRID = ROOT.parent / "shared" / "data" / "sky_timelapse_48.mp4"
TILE, STEP, EDGE = 128, 130, 2


@pytest.fixture(scope="module")
def clips():
  """Six real clips [6, 32, 128, 128, 3], the first of each row of the grid."""
  if not GRID.is_file():
    pytest.skip("needs ../shared/data/sky_timelapse_48.mp4 beside the repository")
  sheet = video_io.read_mp4(GRID)
  rows = [EDGE + STEP * r for r in range(6)]
  return np.stack([sheet[:, y : y + TILE, EDGE : EDGE + TILE] for y in rows])


def lay_out(root, clips):
  """The original's tree: four clips of two videos for training, two for the test."""
  places = ["sky_train/a1/a1_1", "sky_train/a1/a1_2", "sky_train/b/b_1"]
  places += ["sky_train/b/b_10", "sky_test/c/c_1", "sky_test/c/c_2"]
  for place, clip in zip(places, clips, strict=True):
    (root / place).mkdir(parents=True)
    for i, frame in enumerate(clip):
      name = f"{place.split('/')[-1]}_frames_{i + 1:08d}.jpg"
      Image.fromarray(frame).save(root / place / name, quality=90)
  return root


@pytest.fixture(scope="module")
def original(tmp_path_factory, clips):
  return lay_out(tmp_path_factory.mktemp("sky"), clips)


@pytest.fixture(scope="module")
def built(tmp_path_factory, original):
  return sky_timelapse.build(tmp_path_factory.mktemp("tfds"), original)


def test_the_splits_hold_every_clip(built):
  assert {s: i.num_examples for s, i in built.info.splits.items()} == {
    "train": 4,
    "test": 2,
  }
  source = sources.Tfds(built, "train", keys=("video", "clip"))
  names = {_text(source[i]["clip"]) for i in range(4)}
  assert names == {f"sky_train/{c}" for c in ("a1/a1_1", "a1/a1_2", "b/b_1", "b/b_10")}


def _text(value):
  value = value.item() if hasattr(value, "item") else value
  return value.decode() if isinstance(value, bytes) else value


def test_frames_are_the_files_in_order(built, original, clips):
  source = sources.Tfds(built, "test", keys=("video", "clip"))
  for i in range(2):
    record = source[i]
    files = sorted((original / _text(record["clip"])).iterdir())
    for frame, file in zip(record["video"], files, strict=True):
      assert np.array_equal(frame, np.asarray(Image.open(file)))
  # And they are the clips that were laid out, as far as JPEG goes.
  found = {_text(source[i]["clip"]): source[i]["video"] for i in range(2)}
  error = found["sky_test/c/c_1"].astype(float) - clips[4]
  wrong = found["sky_test/c/c_1"].astype(float) - clips[5]
  assert np.sqrt((error**2).mean()) < 6 < np.sqrt((wrong**2).mean())


def test_a_second_build_reads_and_writes_nothing(built, original):
  stamps = {p: p.stat().st_mtime_ns for p in pathlib.Path(built.data_dir).iterdir()}
  folder = pathlib.Path(built.data_dir).parents[2]
  again = sky_timelapse.build(folder, original)
  assert again.info.splits["train"].num_examples == 4
  assert {p: p.stat().st_mtime_ns for p in stamps} == stamps


def test_another_root_under_the_same_name_is_refused(built, tmp_path):
  folder = pathlib.Path(built.data_dir).parents[2]
  with pytest.raises(ValueError, match="was built from .* give another version_name"):
    sky_timelapse.build(folder, tmp_path)


@pytest.fixture
def tree(tmp_path):
  """A small tree of drawn frames: two clips of four frames in each split."""
  rng = np.random.default_rng(0)
  clips = rng.integers(0, 255, (6, 4, 16, 16, 3), dtype=np.uint8)
  return lay_out(tmp_path / "tree", clips)


def test_junk_is_skipped_and_reported(tree, tmp_path):
  train = tree / "sky_train"
  (train / "z6Yr7KDZhm0").mkdir()
  (train / "a1" / "readme.txt").write_text("x")
  (train / "a1" / "a1_2" / "a1_2_frames_00000004.jpg").unlink()
  torn = train / "b" / "b_1" / "b_1_frames_00000002.jpg"
  torn.write_bytes(torn.read_bytes()[:-200])
  zero = tree / "sky_test" / "c" / "c_2" / "c_2_frames_00000001.jpg"
  zero.write_bytes(b"")
  built = sky_timelapse.build(tmp_path / "tfds", tree, min_frames=4)
  assert built.info.splits["train"].num_examples == 2
  assert built.info.splits["test"].num_examples == 1
  lines = (pathlib.Path(built.data_dir) / "skipped.jsonl").read_text().splitlines()
  said = {
    pathlib.Path(entry["path"]).name: entry["reason"]
    for entry in map(json.loads, lines)
  }
  assert said == {
    "z6Yr7KDZhm0": "holds no frames",
    "readme.txt": "is no numbered picture",
    "a1_2": "holds 3 frames; 4 at an interval of 1 need 4",
    "b_1": "b_1_frames_00000002.jpg is torn: its last bytes are no end of a JPEG",
    "c_2": "c_2_frames_00000001.jpg is no picture (0 bytes)",
  }


def test_a_root_without_clips_is_refused(tree, tmp_path):
  with pytest.raises(FileNotFoundError, match="none of .'sky_test', 'sky_train'."):
    sky_timelapse.build(tmp_path / "tfds", tmp_path)
  with pytest.raises(ValueError, match="holds no clip of 16 frames; skipped: .*a1_1"):
    sky_timelapse.build(tmp_path / "tfds", tree)
  for file in (tree / "sky_test").rglob("*.jpg"):
    file.write_bytes(b"")
  with pytest.raises(ValueError, match="none of its 2 clips can be used"):
    sky_timelapse.build(tmp_path / "tfds", tree, min_frames=4)
  # Nothing that was refused stands there as a data set.
  with pytest.raises(ValueError, match="none of its 2 clips can be used"):
    sky_timelapse.build(tmp_path / "tfds", tree, min_frames=4)
