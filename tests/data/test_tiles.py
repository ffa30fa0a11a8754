"""Each tile of a grid comes back as its own clip; a wrong grid or file is refused."""

import numpy as np
import pytest

from vdm_jax import video_io
from vdm_jax.data import loader, tiles

GRID = dict(rows=2, columns=3, size=16, margin=2, gap=4)  # 40 x 60 pixels


def level(number, frame):
  return 30 * number + 10 * frame


@pytest.fixture(scope="module")
def path(tmp_path_factory):
  """Three frames of 2 x 3 tiles, whose grey level tells tile and frame."""
  sheet = np.full((3, 40, 60, 3), 255, np.uint8)
  for frame in range(3):
    for number in range(6):
      top, left = 2 + 20 * (number // 3), 2 + 20 * (number % 3)
      sheet[frame, top : top + 16, left : left + 16] = level(number, frame)
  path = tmp_path_factory.mktemp("grid") / "grid.mp4"
  video_io.write_mp4(path, sheet, crf=1)
  return path


def levels(source, i):
  return np.median(source[i]["video"], axis=(1, 2, 3))


def test_every_tile_is_a_clip_counted_along_the_rows(path):
  source = tiles.VideoTileSource(path, **GRID)
  assert len(source) == 6
  for i in range(6):
    video = source[i]["video"]
    assert video.shape == (3, 16, 16, 3) and video.dtype == np.uint8
    assert np.abs(levels(source, i) - [level(i, f) for f in range(3)]).max() <= 3
    inside = video[:, 2:-2, 2:-2].astype(int)  # h264 blurs the rim
    assert np.abs(inside - levels(source, i)[:, None, None, None]).max() <= 6
  assert source.name(4).endswith("grid.mp4, tile 4")


def test_other_sizes_that_fill_the_same_frame_cut_elsewhere(path):
  """With tiles of 20 pixels, no margin and no gap, the white between is inside."""
  wide = tiles.VideoTileSource(path, rows=2, columns=3, size=20)[0]["video"]
  assert wide[:, :1].min() > 200 > wide[:, 4:16, 4:16].max()


def test_chosen_numbers_are_the_only_records_and_keep_their_order(path):
  source = tiles.VideoTileSource(path, **GRID, indices=(5, 0))
  assert len(source) == 2 and source.name(0).endswith("tile 5")
  assert levels(source, 0)[0] > levels(source, 1)[0]
  batches = loader.Loader(source, 1, repeat=False)
  found = {int(b["video"][0, 0, 8, 8, 0]) // 100 for b in batches}
  assert found == {0, 1}


def test_numbers_outside_the_grid_and_another_grid_than_the_files_are_refused(path):
  for message, fields in (
    *(("holds tiles 0 to 5", dict(indices=i)) for i in ((6,), (-1, 2), ())),
    ("is 40 pixels high and 60 wide.*are 40 high", dict(columns=4)),
    ("size=8 with margin=2", dict(size=8)),
  ):
    with pytest.raises(ValueError, match=message):
      tiles.VideoTileSource(path, **GRID | fields)


def test_missing_and_broken_files_are_refused_by_name(tmp_path):
  with pytest.raises(FileNotFoundError, match="absent.mp4: no such file"):
    tiles.VideoTileSource(tmp_path / "absent.mp4", **GRID)
  (tmp_path / "notes.mp4").write_text("no video at all")
  with pytest.raises(ValueError, match="notes.mp4 is no readable video"):
    tiles.VideoTileSource(tmp_path / "notes.mp4", **GRID)
