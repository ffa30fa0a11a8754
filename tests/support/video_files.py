"""Small videos and frames of one grey level each, and tables of their texts."""

import csv
import json

import numpy as np
from PIL import Image

from vdm_jax import video_io


def movie(path, level, num_frames=8):
  """A small video of one grey level; the level tells clips apart."""
  video_io.write_mp4(path, np.full((num_frames, 16, 16, 3), level, np.uint8))


def level(record):
  return int(np.rint(record["video"].mean() / 10) * 10)


def pictures(folder, numbers, names="clip_frames_{:08d}.jpg"):
  """Frames whose brightness is their number."""
  folder.mkdir(parents=True, exist_ok=True)
  for i in numbers:
    Image.fromarray(np.full((8, 8, 3), i, np.uint8)).save(folder / names.format(i))


def write(path, rows):
  with open(path, "w", newline="", encoding="utf-8-sig") as file:
    if path.suffix == ".jsonl":
      file.write("".join(json.dumps(row) + "\n" for row in rows))
    else:
      table = csv.DictWriter(file, list(rows[0]))
      table.writeheader()
      table.writerows(rows)


def rows(texts):
  return [dict(id=7, file_name=name, text=text) for name, text in texts.items()]
