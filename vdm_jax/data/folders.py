"""Sources over plain files: a tree of videos, or a tree of folders of frames.

The tree is listed once, at construction: what cannot be a clip is left out and named in
`skipped`, an empty class or a missing folder is refused. Files are decoded at access.
"""

import functools
import os
import pathlib
import re

import numpy as np

from vdm_jax.data import decode, frame_sampling, texts

VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".gif")
PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


def videos(path, num_frames, frame_interval=1, *, start="random", labelled=False):
  """A `ClipFolder` of every video file below a folder, windows of consecutive frames.

  Args:
    path: the folder.
    labelled: True: its sub-folders are the classes, sorted by name. The name of a
      table in it, such as "metadata.csv": the texts are, see texts.py, and clips that
      are not in the table are skipped. False: there are no labels.
    num_frames, frame_interval: a clip is `num_frames` frames, `frame_interval` apart.
    start: "random" (drawn for each record and epoch), "first" or "centre".
  """
  decode.frames_spanned(num_frames, frame_interval)
  read = functools.partial(_read_video, num_frames, frame_interval)
  return _videos(path, read, start, labelled)


def uniformly_sampled_videos(path, num_frames, *, labelled=False):
  """A `ClipFolder` of every video file below a folder, frames evenly from all of each.

  For what happens slowly, see frame_sampling.py; a short video repeats frames. `path`
  and `labelled` are those of `videos`.
  """
  decode.frames_spanned(num_frames, 1)
  read = functools.partial(_read_whole, num_frames)
  return _videos(path, read, "first", labelled)


def _videos(path, read, start, labelled):
  root, skipped, found = _root(path), [], []
  for folder, names in _walk(root):
    for file in names:
      if file.lower().endswith(VIDEOS):
        found.append(folder / file)
      else:
        skipped.append((folder / file, f"is no video by its name {VIDEOS}"))
  clips = [(path, path) for path in found]
  return ClipFolder(root, clips, read, start=start, labelled=labelled, skipped=skipped)


def frames(path, num_frames, frame_interval=1, *, start="random", labelled=False):
  """A `ClipFolder` of every folder of numbered pictures below a folder.

  Stray files, and folders that are empty or hold too few pictures, are skipped. The
  arguments are those of `videos`.
  """
  root, skipped, clips = _root(path), [], []
  length = decode.frames_spanned(num_frames, frame_interval)
  for folder, names in find_frame_folders(root, skipped):
    if len(names) >= length:
      clips.append((folder, [folder / file for file in names]))
    else:
      reason = f"holds {len(names)} frames; {num_frames} at an interval of "
      skipped.append((folder, f"{reason}{frame_interval} need {length}"))
  read = functools.partial(_read_frames, num_frames, frame_interval)
  return ClipFolder(root, clips, read, start=start, labelled=labelled, skipped=skipped)


class ClipFolder:
  """Clips of files below a folder: {"video": uint8 [T, H, W, 3], "label": int32}.

  There is a "label" where `labelled` is not False; `labels` [N] has them all, and
  `classes` their names, so that no clip need be opened for it.

  Args:
    root: the folder that the clips are in.
    clips: [(path, argument of `read`)].
    read: (argument, choose_start) -> uint8 [T, H, W, 3].
    start: "random", "first" or "centre", see decode.start_chooser.
    labelled: as `videos` takes it.
    skipped: [(path, reason)] of what was left out.

  Raises:
    ValueError: there are no clips, or a class holds none.
  """

  def __init__(self, root, clips, read, *, start, labelled, skipped):
    decode.start_chooser(start, None)
    self.skipped, self.classes, self.labels = skipped, None, None
    self._start, self._read = start, read
    self._clips = sorted(clips, key=lambda clip: natural_sort_key(clip[0]))
    if not clips:
      raise ValueError(f"{root} holds no clip{self._first_skipped()}.")
    if labelled:
      self._label_by_table(root, labelled) if isinstance(
        labelled, str
      ) else self._label_by_folder(root)

  def _label_by_table(self, root, table):
    captions = texts.read_captions(root / table)
    clips = {clip[0].relative_to(root).as_posix(): clip for clip in self._clips}
    self.skipped = [entry for entry in self.skipped if entry[0] != root / table]
    for names, reason in (
      (captions.keys() - clips.keys(), f"is in {table}, and there is no such clip"),
      (clips.keys() - captions.keys(), f"is not in {table}"),
    ):
      self.skipped += [(root / name, reason) for name in sorted(names)]
    self._clips = [clip for name, clip in clips.items() if name in captions]
    if not self._clips:
      raise ValueError(f"{root} holds no clip with a text{self._first_skipped()}.")
    found = [captions[name] for name in clips if name in captions]
    self.classes = sorted(set(found))
    places = {text: place for place, text in enumerate(self.classes)}
    self.labels = np.array([places[text] for text in found], np.int32)

  def _label_by_folder(self, root):
    inside = [path.relative_to(root).parts for path, _ in self._clips]
    for parts in inside:
      if len(parts) < 2:
        raise ValueError(
          f"{root / parts[0]} lies in no class; with labels every clip lies in a "
          f"sub-folder of {root} named after its class."
        )
    children = (child.name for child in root.iterdir() if child.is_dir())
    folders = sorted(child for child in children if not child.startswith("."))
    empty = sorted(set(folders) - {parts[0] for parts in inside})
    if empty:
      raise ValueError(
        f"{root}: class {empty[0]!r} ({len(empty)} of {len(folders)} classes) holds no "
        f"clip; fill or delete the folder{self._first_skipped()}."
      )
    self.classes = folders
    self.labels = np.array([folders.index(parts[0]) for parts in inside], np.int32)

  def _first_skipped(self):
    return "".join(f"; skipped {path}: {reason}" for path, reason in self.skipped[:3])

  def __len__(self):
    return len(self._clips)

  def __getitem__(self, i):
    return self.load(i, np.random.default_rng(i))

  def load(self, i, rng):
    video = self._read(self._clips[i][1], decode.start_chooser(self._start, rng))
    if self.labels is None:
      return {"video": video}
    return {"video": video, "label": self.labels[i]}

  def name(self, i):
    return str(self._clips[i][0])


def _read_video(num_frames, interval, path, choose):
  return decode.read_clip(path, num_frames, interval, choose)


def _read_whole(num_frames, path, choose):
  del choose  # there is no choice
  pick = functools.partial(frame_sampling.uniform_indices, num_frames=num_frames)
  return decode.read_frames(path, pick)


def _read_frames(num_frames, interval, paths, choose):
  length = decode.frames_spanned(num_frames, interval)
  begin = choose(len(paths) - length)
  return decode.read_images(paths[0].parent, paths[begin : begin + length : interval])


def find_frame_folders(path, skipped):
  """Yields (folder, [file names in the order of the last number in each]) below `path`.

  Stray files and folders without frames are appended to the list `skipped`.
  """
  for folder, names in _walk(path):
    numbered = {}
    for file in names:
      number = re.findall(r"\d+", pathlib.PurePath(file).stem)
      if not file.lower().endswith(PICTURES) or not number:
        skipped.append((folder / file, "is no numbered picture"))
      elif int(number[-1]) in numbered:
        skipped.append((folder / file, f"is a second frame {int(number[-1])}"))
      else:
        numbered[int(number[-1])] = file
    if numbered:
      yield folder, [numbered[n] for n in sorted(numbered)]
    elif not any(child.is_dir() for child in folder.iterdir()):
      skipped.append((folder, "holds no frames"))


def natural_sort_key(path):
  """A key for `sorted` by which the path clip_2 comes before clip_10."""
  parts = re.split(r"(\d+)", os.fspath(path))
  return [int(p) if p.isdecimal() else p for p in parts], os.fspath(path)


def _root(path):
  if not pathlib.Path(path).is_dir():
    raise FileNotFoundError(f"{path}: no such folder; give one that holds clips.")
  return pathlib.Path(path)


def _walk(path):
  """(folder, its files) below `path` in a fixed order, hidden ones left out."""
  for folder, children, names in os.walk(path, followlinks=True):
    children[:] = sorted(c for c in children if not c.startswith("."))
    yield pathlib.Path(folder), sorted(n for n in names if not n.startswith("."))
