"""Videos on disk: mp4, gif and png <-> uint8 [T, H, W, 3].

Every write is atomic: a reader sees the old file or the whole new one.
"""

import fractions
import io
import os

import av
import numpy as np
from av.sidedata import sidedata
from av.video import reformatter
from einops import rearrange, reduce, repeat
from PIL import Image, ImageOps

from vdm_jax import atomic

DEEP_MODES = ("I", "F", "I;16", "I;16B", "I;16L")
UNKNOWN = 2  # the matrix of colours of a file that names none
# Of ITU-T H.273: primaries and transfer of BT.709, and of BT.601 with 525 lines.
TAGS = {reformatter.Colorspace.ITU709: (1, 1), reformatter.Colorspace.ITU601: (6, 6)}


class ImageFileError(ValueError):
  """The error of a file that is no image for us; `reason`, a str, says why."""

  def __init__(self, path, reason):
    super().__init__(f"{path} {reason}.")
    self.reason = reason


def read_image(path, file_bytes=None):
  """uint8 [H, W, 3], RGB, of an image file, turned upright; alpha is dropped.

  Args:
    path: the file; only its name in errors where there is `file_bytes`.
    file_bytes: the contents of an image file, bytes.

  Raises:
    FileNotFoundError: there is no such file.
    ImageFileError: it is no image, or has more than 8 bits a channel.
  """
  try:
    with Image.open(path if file_bytes is None else io.BytesIO(file_bytes)) as image:
      if image.mode in DEEP_MODES:
        reason = f"has {image.mode} pixels; wanted 8 bits a channel"
        raise ImageFileError(path, reason)
      return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
  except (ImageFileError, FileNotFoundError):
    raise
  except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
    raise ImageFileError(path, f"is no readable picture ({error})") from error


def iterate_frames(path):
  """Yields the frames of a video file in order, each uint8 [H, W, 3], upright."""
  with av.open(os.fspath(path)) as container:
    stream = find_video_stream(container)
    if stream is None:
      raise ValueError(f"{path}: no video stream; give a file that holds pictures.")
    converter = reformatter.VideoReformatter()
    for frame in container.decode(stream):
      yield frame_pixels(frame, converter)


def find_video_stream(container):
  """The video stream of an av container that players show; None if there is none.

  The default one, or of several the largest; no cover, and none without a decoder.
  """
  kind = av.stream.Disposition
  streams = [
    stream
    for stream in container.streams.video
    if stream.codec_context is not None
    and not stream.disposition & (kind.attached_pic | kind.timed_thumbnails)
  ]
  default = lambda stream: bool(stream.disposition & kind.default)
  order = lambda stream: (default(stream), stream.width * stream.height)
  return max(streams, key=order, default=None)


def frame_pixels(frame, converter):
  """The pixels uint8 [H, W, 3], RGB, of an av.VideoFrame, by an av VideoReformatter.

  The colours of a file that names no matrix are those that players guess: BT.709's
  from HD on, BT.601's for smaller ones. Turned and mirrored as players show it.
  """
  guess = {}
  if frame.colorspace == UNKNOWN and not frame.format.is_rgb:
    guess = dict(src_colorspace=_matrix(frame.width, frame.height))
  picture = converter.reformat(frame, format="rgb24", **guess).to_ndarray()
  return _upright(picture, frame.side_data.get(sidedata.Type.DISPLAYMATRIX))


def _upright(picture, matrix):
  """The picture [H, W, 3] turned and mirrored as a display matrix says; None: as it is.

  A matrix (a, b; c, d) shows the pixel (x, y) at (a x + c y, b x + d y).
  """
  if matrix is None:
    return picture
  a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].astype(float)
  if abs(b) > abs(a):
    picture, a, d = picture.swapaxes(0, 1), c, b
  return picture[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


def _matrix(width, height):
  """The matrix of colours by which players show a video that names none."""
  matrices = reformatter.Colorspace
  return matrices.ITU709 if width >= 1280 or height > 576 else matrices.ITU601


def read_mp4(path):
  """Reads a whole video file: uint8 [T, H, W, 3]."""
  video = list(iterate_frames(path))
  if not video:
    raise ValueError(f"{path}: the video stream holds no frame.")
  return np.stack(video)


def to_uint8(video):
  """Converts a video [...] of floats in [-1, 1] to uint8, clipped; uint8 passes.

  numpy arrays must be finite; JAX's stay on their device, inside a jitted function too.
  """
  if not hasattr(video, "__array_namespace__"):
    video = np.asarray(video)
  if video.dtype == np.uint8:
    return video
  xp = video.__array_namespace__()
  if xp is np and not np.issubdtype(video.dtype, np.floating):
    raise TypeError(f"{video.dtype} video: expected uint8, or floats in [-1, 1].")
  if xp is np and not np.isfinite(video).all():
    raise ValueError("The video holds NaN or infinity: nothing sensible to write.")
  return xp.rint((xp.clip(video, -1.0, 1.0) + 1.0) * 127.5).astype(np.uint8)


def finite_frames(video):
  """Whether each frame of floats [B, T, ...], numpy or JAX, is finite: bool [B, T]."""
  xp = video.__array_namespace__()
  return xp.isfinite(video).all(axis=tuple(range(2, video.ndim)))


def check_finite(finite, first=0):
  """Raises a FloatingPointError if a frame was not finite.

  Args:
    finite: {"latents" or the like: bool [B, T]}, of `finite_frames`, in the order in
      which they were computed.
    first: number of the first of these videos.
  """
  for name, frames in finite.items():
    bad = np.argwhere(~np.asarray(frames))
    if len(bad):
      video, frame = bad[0]
      raise FloatingPointError(
        f"The {name} of video {first + video} are NaN or infinite in frame {frame}, "
        f"and {len(bad)} frames of {np.size(frames)} in all: nothing is written. "
        "Look at the weights, or compute in bfloat16 or float32 where it is float16."
      )


def to_float(video):
  """Converts uint8 videos [...], numpy or JAX, to floats in [-1, 1]; floats pass."""
  if video.dtype == np.uint8:
    return video.astype(np.float32) / 127.5 - 1.0
  return video


def average_pool_pixels(video, factors):
  """Mean-pools [..., H, W, C] to [..., H / p, W / q, C], float32; (p, q) = factors.

  Raises:
    ValueError: unless the factors divide the sizes.
  """
  (p, q), (height, width) = factors, video.shape[-3:-1]
  if min(factors) < 1 or height % p or width % q:
    raise ValueError(f"{p} x {q} does not divide videos of {height} x {width} pixels.")
  pixels = "... (h p) (w q) c -> ... h w c"
  return reduce(np.asarray(video, np.float32), pixels, "mean", p=p, q=q)


def enlarge(video, scale):
  """Repeats pixels: [..., H, W, C] -> [..., H * scale, W * scale, C]."""
  if int(scale) != scale or scale < 1:
    raise ValueError(f"scale={scale}: wanted a whole number of at least 1.")
  return repeat(video, "... h w c -> ... (h p) (w q) c", p=int(scale), q=int(scale))


def video_grid(videos, columns=None, *, gap=1):
  """One video of many, laid out in rows from left to right, on black.

  Args:
    videos: uint8 [N, T, H, W, 3].
    columns: videos per row; the smallest near-square grid when None.
    gap: black pixels between videos.

  Returns:
    uint8 [T, rows * (H + gap) - gap, columns * (W + gap) - gap, 3].
  """
  videos = _checked(videos, "N T H W 3")
  columns = columns or int(np.ceil(np.sqrt(len(videos))))
  rows = -(-len(videos) // columns)
  empty = np.zeros((rows * columns - len(videos), *videos.shape[1:]), np.uint8)
  cells = np.concatenate([videos, empty])
  cells = np.pad(cells, ((0, 0), (0, 0), (0, gap), (0, gap), (0, 0)))
  sheet = rearrange(cells, "(r q) t h w c -> t (r h) (q w) c", r=rows)
  return sheet[:, : sheet.shape[1] - gap, : sheet.shape[2] - gap]


def write_mp4(path, video, fps=8, *, scale=1, crf=18):
  """Writes a video [T, H, W, 3] as h264 (yuv420p: every player and browser shows it).

  An odd height or width grows by one repeated edge line: yuv420p has even sizes. The
  colours are BT.709's from HD on, BT.601's for smaller videos, and the file says so.

  Args:
    video: uint8, or floats in [-1, 1].
    fps: frames a second.
    scale: integer enlargement, by repeating pixels.
    crf: x264's quality; 0 is best, 18 looks lossless.
  """
  video = enlarge(_checked(video, "T H W 3"), scale)
  height, width = video.shape[1:3]
  video = np.pad(video, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
  with atomic.file(path) as file, av.open(str(file), "w", format="mp4") as container:
    stream = container.add_stream(
      "libx264", rate=_fps(fps), options={"crf": str(crf), "preset": "veryfast"}
    )
    stream.height, stream.width = video.shape[1:3]
    matrix = _matrix(stream.width, stream.height)
    codec, limited = stream.codec_context, reformatter.ColorRange.MPEG
    codec.pix_fmt, codec.colorspace, codec.color_range = "yuv420p", matrix, limited
    codec.color_primaries, codec.color_trc = TAGS[matrix]
    colours = dict(dst_colorspace=matrix, dst_color_range=limited)
    converter = reformatter.VideoReformatter()
    for frame in video:
      picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), "rgb24")
      picture = converter.reformat(picture, format="yuv420p", **colours)
      container.mux(stream.encode(picture))
    container.mux(stream.encode())


def write_gif(path, video, fps=8, *, scale=1):
  """Writes a video [T, H, W, 3], uint8 or floats in [-1, 1], as an endless gif.

  Its clock ticks in hundredths of a second; equal neighbours may become one frame.
  `scale` is an integer enlargement.
  """
  video = enlarge(_checked(video, "T H W 3"), scale)
  pictures = [Image.fromarray(frame).quantize(256) for frame in video]
  with atomic.file(path) as file:
    pictures[0].save(
      file,
      format="GIF",
      save_all=True,
      append_images=pictures[1:],
      duration=max(20, round(100 / float(fps)) * 10),
      loop=0,
    )


def write_png(path, image, *, scale=1):
  """Writes an image [H, W, 3], uint8 or floats in [-1, 1], `scale` times enlarged."""
  with atomic.file(path) as file:
    Image.fromarray(enlarge(_checked(image, "H W 3"), scale)).save(file, format="PNG")


def frame_sheet(videos, *, gap=1):
  """One image, uint8 [H', W', 3]: a row of frames, left to right, for each video.

  Args:
    videos: uint8 [N, T, H, W, 3].
    gap: black pixels between frames.
  """
  videos = _checked(videos, "N T H W 3")
  cells = rearrange(videos, "n t h w c -> (n t) 1 h w c")
  return video_grid(cells, columns=videos.shape[1], gap=gap)[0]


def _checked(video, axes):
  """The array as uint8, or an error that says which shape was expected."""
  video = to_uint8(video)
  wanted = axes.split()
  if video.ndim != len(wanted) or video.shape[-1] != 3 or 0 in video.shape:
    raise ValueError(
      f"shape {video.shape}: wanted [{', '.join(wanted)}] with no empty axis; repeat "
      "a grey video three times along its last axis."
    )
  return video


def _fps(fps):
  """A rate that the encoder takes: whole, or a fraction of small numbers."""
  if not fps > 0:
    raise ValueError(f"fps={fps}: wanted frames per second above 0.")
  return fractions.Fraction(float(fps)).limit_denominator(1001)
