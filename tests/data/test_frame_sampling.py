"""Frames from all of a video or from a window, as MagicTime's code chose them."""

import numpy as np
import pytest

from configs import animatediff, magictime
from tests.support import golden_files
from vdm_jax import config, video_io
from vdm_jax.data import folders, frame_sampling

RECORDED = golden_files.read("magictime_frames")[1]


def rows(kind):
  """(arguments, indices) of each recorded case; rows are padded with -1."""
  pairs = zip(RECORDED[f"in_{kind}"], RECORDED[f"out_{kind}"], strict=True)
  return [(arguments.tolist(), out[out >= 0]) for arguments, out in pairs]


def test_frames_of_all_of_a_video_are_the_originals():
  for (length, count), theirs in rows("uniform"):
    np.testing.assert_array_equal(frame_sampling.uniform_indices(length, count), theirs)


def test_frames_of_a_window_are_the_originals():
  for arguments, theirs in rows("window"):
    np.testing.assert_array_equal(frame_sampling.window_indices(*arguments), theirs)


def test_the_comparison_sees_the_other_rounding():
  wrong = 0
  for (length, count), theirs in rows("uniform"):
    down = np.linspace(0, length - 1, count).astype(int)
    wrong += length > count and not np.array_equal(down, theirs)
  assert wrong


def test_both_ends_are_there_and_short_videos_repeat():
  assert frame_sampling.uniform_indices(301, 16)[[0, -1]].tolist() == [0, 300]
  assert frame_sampling.uniform_indices(3, 5).tolist() == [0, 0, 1, 1, 2]
  assert frame_sampling.uniform_indices(9, 1).tolist() == [0]
  with pytest.raises(ValueError, match="does not lie in a video of 40"):
    frame_sampling.window_indices(40, 4, 4, start=30)
  with pytest.raises(ValueError, match="without frames"):
    frame_sampling.uniform_indices(0, 4)


def write(path, count):
  """A video whose i-th frame is grey, 8 i + 8."""
  grey = 8 * np.arange(count)[:, None, None, None] + 8
  frames = np.broadcast_to(grey, (count, 32, 32, 3)).astype(np.uint8)
  video_io.write_mp4(path, frames, crf=1)


def test_a_folder_of_videos_gives_clips_of_all_of_each(tmp_path):
  write(tmp_path / "long.mp4", 20)
  write(tmp_path / "short.mp4", 3)
  clips = folders.uniformly_sampled_videos(tmp_path, 5)
  shown = [clips[i]["video"].mean(axis=(1, 2, 3)) for i in range(2)]
  for grey, expected in zip(shown, ([0, 5, 10, 14, 19], [0, 0, 1, 1, 2]), strict=True):
    np.testing.assert_allclose(grey, 8 * np.array(expected) + 8, atol=3)


@pytest.mark.parametrize("arg, expected", [("full", [0, 10, 19]), (None, [0, 3, 6])])
def test_magictime_reads_whole_videos(tmp_path, arg, expected):
  """And AnimateDiff, of which it is made, windows of every third frame."""
  cfg = magictime.get_config(arg) if arg else animatediff.get_config("v3")
  (tmp_path / "flower").mkdir()
  write(tmp_path / "flower" / "long.mp4", 20)
  table = "file_name,text\nflower/long.mp4,a flower opens\n"
  (tmp_path / "metadata.csv").write_text(table)
  clips = cfg.autoencode.loader.source.source
  clips.update(path=str(tmp_path), num_frames=3)
  if not arg:
    clips.start = "first"
  shown = config.build(clips)[0]["video"].mean(axis=(1, 2, 3))
  np.testing.assert_allclose(shown, 8 * np.array(expected) + 8, atol=3)
