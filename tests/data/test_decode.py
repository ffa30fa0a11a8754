"""Clips come out exact, or a `BadClipError` says the file, what came, what it needs."""

import itertools
import struct

import av
import numpy as np
import pytest
from PIL import Image

from vdm_jax import video_io
from vdm_jax.data import decode

T, H, W = 40, 32, 48


def stripes(num_frames=T):
  """Frames [T, H, W, 3] whose brightness tells their number: 4 i + 20."""
  level = 20 + 4 * np.arange(num_frames)
  video = np.broadcast_to(level[:, None, None, None], (num_frames, H, W, 3))
  return np.ascontiguousarray(video.astype(np.uint8))


def numbers(clip):
  """The frame numbers that a clip of `stripes` shows."""
  return np.rint((clip.astype(float).mean((1, 2, 3)) - 20) / 4).astype(int).tolist()


def moving(num_frames):
  """Noise [T, 64, 80, 3] that moves: encoders make B-frames of it, not of stripes."""
  rng = np.random.default_rng(0)
  still = rng.integers(0, 256, (96, 96, 3), np.uint8)
  steps = range(num_frames)
  video = np.stack([np.roll(still, (i, 2 * i), (0, 1))[:64, :80] for i in steps])
  return (video // 2 + rng.integers(0, 64, video.shape, np.uint8)).astype(np.uint8)


def write(path, video, codec="libx264", pix_fmt="yuv420p", source="rgb24", **options):
  with av.open(str(path), "w") as container:
    stream = container.add_stream(codec, rate=10, options=options)
    stream.height, stream.width = video.shape[1:3]
    stream.pix_fmt = pix_fmt
    if pix_fmt == "gray":
      stream.codec_context.color_range = 2  # the conversion to grey keeps 0..255
    for frame in video:
      container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, source)))
    container.mux(stream.encode())
  return path


@pytest.fixture(scope="module")
def movie(tmp_path_factory):
  """B-frames, and a key frame every 8: seeking must land before and count on."""
  path = tmp_path_factory.mktemp("decode") / "movie.mp4"
  return write(path, stripes(), g="8", bf="3", crf="5")


def test_every_start_gives_exactly_the_asked_frames(movie):
  for begin in range(T - 7 + 1):
    clip = decode.read_clip(movie, 4, 2, lambda slack, b=begin: b)
    assert numbers(clip) == [begin, begin + 2, begin + 4, begin + 6]
    assert clip.shape == (4, H, W, 3) and clip.dtype == np.uint8


@pytest.mark.parametrize(
  "codec, options",
  [
    ("libx264", {"bf": "3"}),
    ("libx264", {"bf": "3", "x264-params": "b-pyramid=none:ref=4:weightp=2"}),
    ("libx264", {"bf": "4", "g": "9", "x264-params": "open-gop=1:b-pyramid=strict"}),
    ("libx264", {"bf": "0"}),
    ("libx265", {"bf": "4", "x265-params": "keyint=12:log-level=error"}),
    ("mpeg4", {"bf": "2"}),
  ],
)
def test_frames_nobody_needs_are_left_out_without_a_trace(tmp_path, codec, options):
  path = write(tmp_path / "a.mp4", moving(40), codec, crf="20", **options)
  whole = video_io.read_mp4(path)
  for num_frames, interval in ((1, 1), (7, 3), (5, 4), (10, 4), (8, 5), (40, 1)):
    length = decode.frames_spanned(num_frames, interval)
    for begin in range(0, 40 - length + 1, 3):
      clip = decode.read_clip(path, num_frames, interval, lambda slack, b=begin: b)
      assert np.array_equal(clip, whole[begin : begin + length : interval])
  with av.open(str(path)) as container:
    every = len(list(decode._decoded(container, container.streams.video[0])))
  with av.open(str(path)) as container:
    fewer = len(list(decode._decoded(container, container.streams.video[0], {0})))
  assert every == 40
  if options["bf"] != "0":  # the frames between are B-frames, and left out
    assert fewer < 30


def test_starts_first_centre_random(movie):
  begin = {
    name: numbers(decode.read_clip(movie, 4, 1, decode.start_chooser(name, rng)))[0]
    for name, rng in (("first", None), ("centre", None))
  }
  assert begin == {"first": 0, "centre": 18}
  rng = np.random.default_rng(0)
  drawn = {decode.start_chooser("random", rng)(3) for _ in range(100)}
  assert drawn == {0, 1, 2, 3}
  with pytest.raises(ValueError, match="'middle'.*centre"):
    decode.start_chooser("middle", rng)


def test_grey_rgba_and_other_containers_become_rgb(tmp_path):
  for name, codec, pix_fmt, source in (
    ("grey.mp4", "libx264", "gray", "rgb24"),
    ("png.mov", "png", "rgba", "rgba"),
    ("rgba.mov", "qtrle", "argb", "argb"),
    ("xvid.avi", "mpeg4", "yuv420p", "rgb24"),
    ("vp9.webm", "libvpx-vp9", "yuv420p", "rgb24"),
  ):
    video = stripes(12)
    if source != "rgb24":
      at = 3 if source == "rgba" else 0
      video = np.insert(video, at, 128, axis=-1)  # alpha
    path = write(tmp_path / name, video, codec, pix_fmt, source)
    clip = decode.read_clip(path, 3, 4, lambda slack: 2)
    assert clip.shape == (3, H, W, 3), name
    assert numbers(clip) == [2, 6, 10], name


def test_odd_sizes_decode(tmp_path):
  video = stripes(6)[:, :31, :47]
  write(tmp_path / "odd.mp4", video, pix_fmt="yuv444p")
  assert decode.read_clip(tmp_path / "odd.mp4", 6).shape == (6, 31, 47, 3)


def test_every_container_gives_what_decoding_in_order_gives(tmp_path):
  """Files without times, with times of packets only, without seeking."""
  for name, codec, options in (
    ("h264.avi", "libx264", dict(bf="3", g="9")),
    ("mpeg4.avi", "mpeg4", dict(bf="2", g="9")),
    ("h264.mkv", "libx264", dict(bf="3", g="9")),
    ("h264.ts", "libx264", dict(bf="3", g="9")),
    ("mpeg2.ts", "mpeg2video", dict(bf="2", g="9")),
    ("mpeg2.mpg", "mpeg2video", dict(bf="2", g="9")),
    ("h265.mov", "libx265", {"x265-params": "keyint=9:log-level=error"}),
    ("vp9.webm", "libvpx-vp9", dict(g="9")),
  ):
    # As they are: libx265 writes past its buffers where frames are less than 64 wide.
    path = write(tmp_path / name, moving(24), codec, **options)
    with av.open(str(path)) as container:
      converter = av.video.reformatter.VideoReformatter()
      frames = list(container.decode(video=0))
      whole = np.stack([video_io.frame_pixels(f, converter) for f in frames])
    kinds = {frame.pict_type for frame in frames}
    assert av.video.frame.PictureType.B in kinds or codec == "libvpx-vp9", name
    assert len(np.unique(whole, axis=0)) == 24, name
    for begin in range(24 - 6):
      clip = decode.read_clip(path, 3, 3, lambda slack, b=begin: b)
      assert np.array_equal(clip, whole[begin : begin + 7 : 3]), (name, begin)


def test_turned_and_mirrored_videos_are_as_players_show_them(tmp_path):
  """The pixel (x, y) is shown at (a x + c y, b x + d y), of all eight matrices."""
  corner = np.zeros((4, H, W, 3), np.uint8)
  corner[:, :16, :16], corner[:, 16:, :16] = 220, 120
  path = write(tmp_path / "a.mp4", corner, crf="1")
  data = bytearray(path.read_bytes())
  y, x = np.indices((H, W))
  at = data.index(b"tkhd") + 4 + 40  # in the track header, 40 bytes after its name
  for first, second in itertools.product((-1, 1), (-1, 1)):
    for a, b, c, d in ((first, 0, 0, second), (0, first, second, 0)):
      one = 1 << 16
      matrix = (a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)
      data[at : at + 36] = struct.pack(">9i", *matrix)
      path.write_bytes(data)
      column, row = a * x + c * y, b * x + d * y
      wanted = np.zeros((H, W) if a else (W, H))
      wanted[row - row.min(), column - column.min()] = corner[0, :, :, 0]
      clip = decode.read_clip(path, 4)
      assert clip.shape[1:3] == wanted.shape
      assert np.array_equal(clip, video_io.read_mp4(path))
      assert np.abs(clip[0, :, :, 0] - wanted).mean() < 4, (a, b, c, d)


def test_a_cover_is_not_read_and_the_default_stream_is(tmp_path):
  kinds, path = av.stream.Disposition, tmp_path / "a.mp4"
  with av.open(str(path), "w") as container:
    for codec, pix_fmt, side, kind in (
      ("png", "rgb24", 128, kinds.attached_pic),
      ("libx264", "yuv420p", 64, kinds.captions),
      ("libx264", "yuv420p", 32, kinds.default),
    ):
      stream = container.add_stream(codec, rate=10)
      stream.width, stream.height, stream.pix_fmt = side, side, pix_fmt
      stream.disposition = kind
    for stream in container.streams.video:
      side = stream.width
      for frame in np.full((1 if side == 128 else 8, side, side, 3), 90, np.uint8):
        container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
      container.mux(stream.encode())
  with av.open(str(path)) as container:
    assert len(container.streams.video) == 3
  for clip in (decode.read_clip(path, 8), video_io.read_mp4(path)):
    assert clip.shape == (8, 32, 32, 3)


def bad_files(folder):
  """[(name, words of the reason)], each written to the folder."""
  whole = write(folder / "whole.mp4", stripes(24), movflags="faststart")
  data = whole.read_bytes()
  other = write(folder / "x.mp4", stripes())
  (folder / "no_index.mp4").write_bytes(other.read_bytes()[:900])
  (folder / "torn.mp4").write_bytes(data[: len(data) * 9 // 10])
  film = write(folder / "x.avi", stripes(24), "mpeg4")
  with av.open(str(film)) as container:
    places = sorted(p.pos for p in container.demux(video=0) if p.size)
  (folder / "cut.avi").write_bytes(film.read_bytes()[: places[20]])
  (folder / "zero.mp4").write_bytes(b"")
  (folder / "unknown.mp4").write_bytes(whole.read_bytes().replace(b"avc1", b"zzzz"))
  (folder / "text.mp4").write_text("not a video\n" * 50)
  (folder / "folder.mp4").mkdir()
  write(folder / "short.mp4", stripes(5))
  rng = np.random.default_rng(0)
  (folder / "noise.mp4").write_bytes(rng.bytes(4096))
  noise = rng.integers(0, 255, (24, H, W, 3), dtype=np.uint8)
  broken = write(folder / "broken.mp4", noise, g="24", bf="0")
  data = bytearray(broken.read_bytes())
  start = data.index(b"mdat") + 3000
  data[start : start + 4000] = bytes(4000)
  broken.write_bytes(data)
  with av.open(str(folder / "sound.mp4"), "w") as container:
    stream = container.add_stream("aac", rate=8000)
    frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
    frame.sample_rate = 8000
    container.mux(stream.encode(frame))
    container.mux(stream.encode())
  return {
    "no_index.mp4": "cannot be decoded",
    "torn.mp4": "cannot be decoded",
    "cut.avi": "is torn: its header promises 24 frames, 20 are there",
    "zero.mp4": "is empty",
    "text.mp4": "cannot be decoded|no video",
    "folder.mp4": "is no file",
    "short.mp4": "holds 5 frames; 8 at an interval of 2 need 15",
    "noise.mp4": "cannot be decoded",
    "absent.mp4": "is no file",
    "broken.mp4": "",
    "sound.mp4": "no video stream",
    "unknown.mp4": "no video stream that can be decoded",
  }


def test_every_kind_of_bad_file_is_named_with_its_reason(tmp_path):
  for name, words in bad_files(tmp_path).items():
    with pytest.raises(decode.BadClipError, match=words) as caught:
      decode.read_clip(tmp_path / name, 8, 2)
    assert caught.value.path == str(tmp_path / name)
  assert decode.read_clip(tmp_path / "whole.mp4", 8, 2).shape == (8, H, W, 3)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "LA", "1"])
def test_pictures_of_every_mode_become_rgb(tmp_path, mode):
  Image.fromarray(stripes(1)[0]).convert(mode).save(tmp_path / "a.png")
  assert decode.read_image(tmp_path / "a.png").shape == (H, W, 3)


def test_bad_pictures_are_named(tmp_path):
  good = tmp_path / "good.jpg"
  Image.fromarray(stripes(1)[0]).save(good)
  (tmp_path / "torn.jpg").write_bytes(good.read_bytes()[:200])
  (tmp_path / "zero.jpg").write_bytes(b"")
  Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "deep.png")
  for name in ("torn.jpg", "zero.jpg", "deep.png", "absent.jpg"):
    with pytest.raises(decode.BadClipError, match=name):
      decode.read_image(tmp_path / name)
  Image.fromarray(stripes(1)[0, :8]).save(tmp_path / "small.jpg")
  with pytest.raises(
    decode.BadClipError, match=r"different sizes.*\(8, 48\), \(32, 48\)"
  ):
    decode.read_images("clip", [good, tmp_path / "small.jpg"])


def test_a_clip_of_no_frames_is_refused():
  with pytest.raises(ValueError, match="num_frames=0"):
    decode.frames_spanned(0, 1)
  with pytest.raises(ValueError, match="frame_interval=0"):
    decode.frames_spanned(4, 0)
