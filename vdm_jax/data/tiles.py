"""A grid of clips in one video, as previews are made.

A whole small data set in one file: it is decoded once and held in memory.
"""

import pathlib

import av

from vdm_jax import video_io


class VideoTileSource:
  """A source of {"video": uint8 [T, size, size, 3]}, a record for each chosen tile.

  Args:
    path: the video file.
    rows, columns: of the grid.
    size: height and width of a tile, pixels.
    margin, gap: pixels around the grid, and between two tiles.
    indices: of the tiles to use, counted along the rows from 0; None: all.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is no video, its frames are no such grid, or an index is no tile.
  """

  def __init__(self, path, *, rows, columns, size, margin=0, gap=0, indices=None):
    self.path, self.columns, self.size = pathlib.Path(path), columns, size
    self.margin, self.gap = margin, gap
    self.indices = tuple(range(rows * columns) if indices is None else indices)
    self.skipped, self.classes = [], None
    wrong = sorted(n for n in self.indices if not 0 <= n < rows * columns)
    if wrong or not self.indices:
      raise ValueError(
        f"indices={self.indices}: a grid of {rows} x {columns} holds tiles 0 to "
        f"{rows * columns - 1}; name at least one, and none outside."
      )
    self._sheet = _read(self.path)
    side = lambda count: 2 * margin + count * size + (count - 1) * gap
    wanted, came = (side(rows), side(columns)), self._sheet.shape[1:3]
    if came != wanted:
      raise ValueError(
        f"{path} is {came[0]} pixels high and {came[1]} wide; {rows} x {columns} tiles "
        f"of size={size} with margin={margin} and gap={gap} are {wanted[0]} high and "
        f"{wanted[1]} wide. Give the file's own grid."
      )

  def __len__(self):
    return len(self.indices)

  def __getitem__(self, i):
    row, column = divmod(self.indices[i], self.columns)
    top, left = (self.margin + k * (self.size + self.gap) for k in (row, column))
    tile = self._sheet[:, top : top + self.size, left : left + self.size]
    return {"video": tile}

  def name(self, i):
    """The file and index of tile i, a str, for reports."""
    return f"{self.path}, tile {self.indices[i]}"


def _read(path):
  if not path.is_file():
    raise FileNotFoundError(
      f"{path}: no such file; give the video that shows the tiles."
    )
  try:
    return video_io.read_mp4(path)
  except av.error.FFmpegError as error:
    raise ValueError(f"{path} is no readable video ({error}).") from error
