"""Sources over plain files: a tree of videos, or a tree of folders of images.

The tree is listed once, at construction: what cannot be a clip is left out and named in
`skipped`, an empty class or a missing folder is refused. Files are decoded at access.
"""

import functools
import os
import pathlib
import re

import numpy as np

from vdm_jax.data import decode, frame_sampling, texts

VIDEOS = (
  *(".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".gif"),
  *(".mpg", ".mpeg", ".ts", ".m2ts"),
)
PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


def videos(path, num_frames, frame_interval=1, *, start="random", labelled=False):
  """A source, `ClipFolder`, of windows of consecutive frames of every video in a tree.

  Records are {"video": uint8 [num_frames, H, W, 3]}, and "label", int32, with labels.

  Args:
    path: the top folder.
    num_frames, frame_interval: a clip is `num_frames` frames, `frame_interval` apart.
    start: "random" (drawn for each record and epoch), "first" or "centre".
    labelled: False: no labels. True: sub-folders are the classes, sorted by name. Name
      of a .csv or .jsonl file in `path` with columns "file_name" and "text": its sorted
      unique texts are the classes; clips that it lacks are skipped.
  """
  decode.frames_spanned(num_frames, frame_interval)
  read = functools.partial(_read_video, num_frames, frame_interval)
  return _videos(path, read, start, labelled)


def uniformly_sampled_videos(path, num_frames, *, labelled=False):
  """A source, `ClipFolder`, of evenly spaced frames from all of every video in a tree.

  Records are {"video": uint8 [num_frames, H, W, 3]}, and "label", int32, with labels;
  a short video repeats frames. For slow changes, such as an opening flower.

  Args:
    path: the top folder.
    labelled: False: no labels. True: sub-folders are the classes. Name of a .csv or
      .jsonl file in `path` with columns "file_name" and "text", the classes.
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
  """A source, `ClipFolder`, of windows of frames of every folder of images in a tree.

  Records are {"video": uint8 [num_frames, H, W, 3]}, and "label", int32, with labels.
  The last number in a file's name is its frame; folders with too few are skipped.

  Args:
    path: the top folder.
    num_frames, frame_interval: a clip is `num_frames` frames, `frame_interval` apart.
    start: "random" (drawn for each record and epoch), "first" or "centre".
    labelled: False: no labels. True: the top sub-folders are the classes. Name of a
      .csv or .jsonl file in `path` with columns "file_name" and "text", the classes.
  """
  decode.frames_spanned(num_frames, frame_interval)
  root, skipped = _root(path), []
  found = iterate_frame_folders(root, skipped, num_frames, frame_interval)
  clips = [(folder, [folder / file for file in names]) for folder, names in found]
  read = functools.partial(_read_frames, num_frames, frame_interval)
  return ClipFolder(root, clips, read, start=start, labelled=labelled, skipped=skipped)


class ClipFolder:
  """A source of clips of files: {"video": uint8 [T, H, W, 3], "label": int32 []}.

  Records have no "label" where `labelled` is False.

  Attributes:
    labels: int32 [N], of all clips without decoding them, or None.
    classes: names of the labels, in order, or None.
    skipped: [(path, reason)] of files that are left out, the argument's included.

  Args:
    root: the folder that the clips are in.
    clips: [(path, argument of `read`)].
    read: function (argument, choose_start) -> uint8 [T, H, W, 3], where choose_start
      is a function largest_start -> first frame.
    start: "random", "first" or "centre", where clips begin.
    labelled: False: no labels; True: from sub-folders; str: a table of texts in `root`.

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
    inside = lambda clip: texts.composed_name(clip[0].relative_to(root).as_posix())
    clips = {inside(clip): clip for clip in self._clips}
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
    """Record i, {key: array}; a random start comes from the numpy Generator `rng`."""
    video = self._read(self._clips[i][1], decode.start_chooser(self._start, rng))
    if self.labels is None:
      return {"video": video}
    return {"video": video, "label": self.labels[i]}

  def name(self, i):
    """The path of clip i, a str, for reports."""
    return str(self._clips[i][0])


def _read_video(num_frames, interval, path, choose):
  return decode.read_clip(path, num_frames, interval, choose)


def _read_whole(num_frames, path, choose):
  del choose  # there is no choice
  pick = functools.partial(frame_sampling.uniform_indices, num_frames=num_frames)
  return decode.read_frames(path, pick)


def _read_frames(num_frames, interval, paths, choose):
  folder = paths[0].parent
  chosen = decode.clip_indices(folder, len(paths), num_frames, interval, choose)
  return decode.read_images(folder, [paths[i] for i in chosen])


def iterate_frame_folders(path, skipped, num_frames, interval=1):
  """Yields (folder, [file names]) for each folder of numbered images below `path`.

  Names are in the order of the last number in each. Other files and folders without
  images, or without `num_frames` of them `interval` apart, are appended to the list
  `skipped` as (path, reason).
  """
  first = decode.start_chooser("first", None)
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
      try:
        decode.clip_indices(folder, len(numbered), num_frames, interval, first)
        yield folder, [numbered[n] for n in sorted(numbered)]
      except decode.BadClipError as error:
        skipped.append((folder, error.reason))
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
  """(folder, its files) below `path` in a fixed order, hidden ones left out.

  Links are followed, and each real folder is given once, by its own name if it has one
  below `path`.
  """
  places, seen = [path], set()
  for place in places:
    for folder, children, names in os.walk(place):
      real = os.path.realpath(folder)
      visible = [] if real in seen else sorted(c for c in children if c[0] != ".")
      linked = [c for c in visible if os.path.islink(os.path.join(folder, c))]
      places += [os.path.join(folder, child) for child in linked]
      children[:] = [child for child in visible if child not in linked]
      if real not in seen:
        seen.add(real)
        yield pathlib.Path(folder), sorted(n for n in names if not n.startswith("."))
