"""Trees of files become clips; what is no clip is named, a wrong tree is refused."""

import numpy as np
import pytest

from tests.support.video_files import level, movie, pictures
from vdm_jax.data import folders


@pytest.fixture
def classes(tmp_path):
  movie(tmp_path / "dog" / "clip_10.mp4", 200)
  movie(tmp_path / "dog" / "clip_2.mp4", 100)
  movie(tmp_path / "cat" / "deep" / "a.mp4", 50)
  return tmp_path


def test_videos_are_in_natural_order_with_labels_of_their_folders(classes):
  source = folders.videos(classes, 4, 2, start="first", labelled=True)
  assert source.classes == ["cat", "dog"] and len(source) == 3
  assert [level(source[i]) for i in range(3)] == [50, 100, 200]
  assert [int(source[i]["label"]) for i in range(3)] == [0, 1, 1]
  assert source[0]["video"].shape == (4, 16, 16, 3)
  assert source.name(2).endswith("clip_10.mp4")
  assert "label" not in folders.videos(classes, 4)[0]


def test_stray_and_hidden_files_are_no_clips(classes):
  (classes / "dog" / "notes.txt").write_text("hello")
  (classes / "dog" / ".clip.mp4").write_text("half a download")
  source = folders.videos(classes, 4, labelled=True)
  assert len(source) == 3
  assert [(p.name, r[:11]) for p, r in source.skipped] == [("notes.txt", "is no video")]


def test_links_are_followed_once(classes, tmp_path_factory):
  """A link to a parent has no end, two to one folder would double its clips.

  Clips have the names of real folders, which tables and classes know.
  """
  (classes / "dog" / "parent").symlink_to(classes)
  (classes / "again").symlink_to(classes / "dog")
  outside = tmp_path_factory.mktemp("outside")
  movie(outside / "b.mp4", 20)
  (classes / "linked").symlink_to(outside)
  source = folders.videos(classes, 4)
  found = sorted(source.name(i).removeprefix(f"{classes}/") for i in range(4))
  clips = ["cat/deep/a.mp4", "dog/clip_10.mp4", "dog/clip_2.mp4", "linked/b.mp4"]
  assert found == clips and len(source) == 4


def test_a_random_start_comes_from_the_rng_alone(tmp_path):
  pictures(tmp_path / "a", range(10))
  source = folders.frames(tmp_path, 3, 2)
  starts = [
    int(source.load(0, np.random.default_rng(seed))["video"][0, 0, 0, 0])
    for seed in range(30)
  ]
  again = int(source.load(0, np.random.default_rng(7))["video"][0, 0, 0, 0])
  assert again == starts[7] and set(starts) == set(range(6))
  assert np.array_equal(source[0]["video"], source[0]["video"])
  centre = folders.frames(tmp_path, 3, 2, start="centre")
  assert centre[0]["video"][:, 0, 0, 0].tolist() == [2, 4, 6]


def test_frames_are_sorted_by_number_not_by_name(tmp_path):
  pictures(tmp_path / "v" / "v_1", range(8, 12), names="v2_frames_{}.png")
  source = folders.frames(tmp_path, 4, start="first")
  assert source[0]["video"][:, 0, 0, 0].tolist() == [8, 9, 10, 11]


def test_junk_folders_are_skipped_and_named(tmp_path):
  pictures(tmp_path / "good" / "good_1", range(4))
  pictures(tmp_path / "short", range(3))
  (tmp_path / "empty" / "inner").mkdir(parents=True)
  (tmp_path / "good" / "good_1" / "Thumbs.db").write_bytes(b"x")
  (tmp_path / "good" / "good_1" / "cover.jpg").write_bytes(b"x")
  pictures(tmp_path / "good" / "good_1", [2], names="again_{}.png")
  source = folders.frames(tmp_path, 4)
  assert len(source) == 1
  said = {p.name: r for p, r in source.skipped}
  assert said == {
    "Thumbs.db": "is no numbered picture",
    "cover.jpg": "is no numbered picture",
    "clip_frames_00000002.jpg": "is a second frame 2",
    "short": "holds 3 frames; 4 at an interval of 1 need 4",
    "inner": "holds no frames",
  }


@pytest.mark.parametrize("make", [folders.videos, folders.frames])
def test_missing_and_empty_folders_are_refused_by_name(tmp_path, make):
  with pytest.raises(FileNotFoundError, match="absent: no such folder"):
    make(tmp_path / "absent", 4)
  (tmp_path / "notes.txt").write_text("x")
  with pytest.raises(ValueError, match="holds no clip; skipped .*notes.txt"):
    make(tmp_path, 4)
  with pytest.raises(ValueError, match="num_frames=0"):
    make(tmp_path, 0)


def test_an_empty_class_and_a_clip_without_class_are_refused(classes):
  (classes / "bird").mkdir()
  with pytest.raises(ValueError, match="class 'bird' .1 of 3 classes. holds no clip"):
    folders.videos(classes, 4, labelled=True)
  (classes / "bird").rmdir()
  movie(classes / "loose.mp4", 50)
  with pytest.raises(ValueError, match="loose.mp4 lies in no class"):
    folders.videos(classes, 4, labelled=True)
  assert len(folders.videos(classes, 4)) == 4


def test_a_wrong_start_is_refused_at_once(classes):
  with pytest.raises(ValueError, match="start='middle'"):
    folders.videos(classes, 4, start="middle")
