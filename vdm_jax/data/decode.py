"""Video and image files -> uint8 RGB frames: exact frame counts, bad files named.

Whatever is wrong with a file becomes one exception, `BadClipError`: the file, its fault
and what was expected; the loader counts it and goes on.
"""

import contextlib
import os
import pathlib

import av
import numpy as np

from vdm_jax import video_io

# Codecs whose decoders can leave out the frames that no other one refers to.
SKIPPING = ("h264", "hevc")


class BadClipError(ValueError):
  """The error of an unusable clip.

  Attributes:
    path, reason: its file or name, and what is wrong, two str.
    always: whether no other start in the same file would help, a bool.
  """

  def __init__(self, path, reason, always=False):
    super().__init__(f"{path}: {reason}")
    self.path, self.reason, self.always = str(path), reason, always

  def __reduce__(self):
    return BadClipError, (self.path, self.reason, self.always)


STARTS = {
  "first": lambda slack, rng: 0,
  "centre": lambda slack, rng: slack // 2,
  "random": lambda slack, rng: int(rng.integers(slack + 1)),
}


def start_chooser(start, rng):
  """A function largest_start -> start, two ints: the frame at which a clip begins.

  Args:
    start: "first" (frame 0), "centre" or "random".
    rng: numpy Generator for "random"; may be None for the others.
  """
  if start not in STARTS:
    raise ValueError(f"start={start!r}: wanted one of {sorted(STARTS)}.")
  return lambda slack: STARTS[start](slack, rng)


def frames_spanned(num_frames, interval):
  """How many frames of a video a clip spans: (num_frames - 1) * interval + 1."""
  if num_frames < 1 or interval < 1:
    raise ValueError(
      f"num_frames={num_frames}, frame_interval={interval}: wanted at least 1 of each."
    )
  return (num_frames - 1) * interval + 1


def clip_indices(path, length, num_frames, interval, choose_start):
  """The range of `num_frames` frames, `interval` apart, of a video of `length`.

  Args:
    path: what the BadClipError names that is raised if there are too few.
    choose_start: function largest_start -> index of the first frame, two ints.
  """
  span = frames_spanned(num_frames, interval)
  if length < span:
    reason = f"holds {length} frames; {num_frames} at an interval of {interval} need "
    raise BadClipError(path, f"{reason}{span}", always=True)
  begin = choose_start(length - span)
  return range(begin, begin + span, interval)


def read_clip(path, num_frames, interval=1, choose_start=lambda slack: 0):
  """uint8 [num_frames, H, W, 3], RGB: every `interval`-th frame from a start.

  Frames are identified by their presentation times, read from the packets before
  anything is decoded, so seeking is exact with B-frames and variable rates; where a
  file has no times, all frames from its first one on are decoded and counted. Grey and
  RGBA videos become RGB (alpha is dropped), turned and mirrored ones are shown as
  players show them. Of several video streams the default one is read, never a cover.

  Args:
    path: the video file.
    choose_start: function largest_start -> index of the first frame, two ints.

  Raises:
    BadClipError: the file is absent, empty, torn, no video, broken inside or too short.
  """
  pick = lambda count: clip_indices(path, count, num_frames, interval, choose_start)
  return read_frames(path, pick)


def read_frames(path, choose_frames):
  """uint8 [N, H, W, 3], RGB: chosen frames of a video file.

  Args:
    path: the video file.
    choose_frames: function, number of frames in the file -> [N] frame indices.

  Raises:
    BadClipError: the file is absent, empty, torn, no video or broken inside.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise BadClipError(path, "is no file", always=True)
  if path.stat().st_size == 0:
    raise BadClipError(path, "is empty (0 bytes)", always=True)
  try:
    with _open(path) as (container, stream):
      times, count = _times(path, container, stream)
      if not count:
        raise BadClipError(path, "holds no frames", always=True)
      picked = [int(i) for i in choose_frames(count)]
      chosen = sorted(set(picked))
      pictures = times and _by_times(
        path, container, stream, [times[i] for i in chosen]
      )
    if not pictures:
      with _open(path) as (container, stream):
        pictures = _collect(path, enumerate(container.decode(stream)), chosen)
  except av.FFmpegError as error:
    raise BadClipError(path, f"cannot be decoded ({error.strerror})") from error
  if len(pictures) != len(chosen):
    raise BadClipError(path, f"gave {len(pictures)} of the {len(chosen)} chosen frames")
  if any(picture.shape != pictures[0].shape for picture in pictures):
    raise BadClipError(path, "changes its size in the middle")
  place = {frame: i for i, frame in enumerate(chosen)}
  return np.stack([pictures[place[frame]] for frame in picked])


@contextlib.contextmanager
def _open(path):
  """(container, its video stream), decoding in one thread."""
  with av.open(os.fspath(path)) as container:
    stream = video_io.find_video_stream(container)
    if stream is None:
      reason = "holds no video stream that can be decoded"
      raise BadClipError(path, reason, always=True)
    stream.codec_context.thread_count = 1  # the loader brings the parallelism
    yield container, stream


def _times(path, container, stream):
  """Sorted presentation times (None where the file has none) and the frame count."""
  packets = [packet for packet in container.demux(stream) if packet.size]
  if len(packets) < stream.frames:
    reason = f"is torn: its header promises {stream.frames} frames, "
    raise BadClipError(path, f"{reason}{len(packets)} are there", always=True)
  times = [packet.pts for packet in packets if not packet.is_discard]
  if None in times or len(set(times)) != len(times):
    return None, len(times)
  # Frames that are decoded in another order than shown have times in that order; an
  # .avi has none, and the packets' numbers in their place.
  counted = stream.codec_context.has_b_frames and times == sorted(times)
  return None if counted else sorted(times), len(times)


def _by_times(path, container, stream, wanted):
  """The frames of the times `wanted`, through the key frame before; None: not found."""
  skips = stream.codec_context.name in SKIPPING
  for needed in (set(wanted), None) if skips else (None,):
    # Decoding times run before presentation times, so a seek may land too late.
    container.seek(wanted[0], stream=stream, backward=True)
    pictures = _collect(path, _decoded(container, stream, needed), wanted)
    if len(pictures) == len(wanted):
      return pictures
  return None


def _decoded(container, stream, wanted=None):
  """(time, frame); with `wanted`, of those times and of frames that others refer to."""
  codec = stream.codec_context
  for packet in container.demux(stream):
    if packet.size:
      needed = wanted is None or packet.pts in wanted
      codec.skip_frame = "DEFAULT" if needed else "NONREF"
    for frame in packet.decode():
      yield frame.pts, frame


def _collect(path, stamped, wanted):
  """Pictures of the (stamp, frame) pairs whose stamp is wanted, in order."""
  pictures = []
  converter = av.video.reformatter.VideoReformatter()
  for stamp, frame in stamped:
    if stamp != wanted[len(pictures)]:
      continue
    if frame.is_corrupt:
      raise BadClipError(path, f"is broken inside, at frame time {stamp}")
    pictures.append(video_io.frame_pixels(frame, converter))
    if len(pictures) == len(wanted):
      break
  return pictures


def read_image(path, file_bytes=None):
  """uint8 [H, W, 3], RGB, of an image file, turned upright; alpha is dropped.

  Args:
    path: the file; only its name in errors where there is `file_bytes`.
    file_bytes: the contents of an image file, bytes.

  Raises:
    BadClipError: it is no image, or has more than 8 bits a channel.
  """
  try:
    return video_io.read_image(path, file_bytes)
  except (video_io.ImageFileError, FileNotFoundError) as error:
    reason = getattr(error, "reason", "is no readable picture (there is no such file)")
    raise BadClipError(path, reason, always=True) from error


def read_images(name, paths_or_bytes):
  """uint8 [T, H, W, 3], RGB, of the T images of one clip.

  Args:
    name: of the clip in errors.
    paths_or_bytes: for each frame the path of an image file, or its contents, bytes.

  Raises:
    BadClipError: one of them is no image, or sizes differ.
  """
  frames = [
    read_image(f"{name}, frame {i}", p) if isinstance(p, bytes) else read_image(p)
    for i, p in enumerate(paths_or_bytes)
  ]
  sizes = sorted({frame.shape[:2] for frame in frames})
  if len(sizes) != 1:
    raise BadClipError(name, f"has frames of different sizes (height, width): {sizes}")
  return np.stack(frames)
