"""What is written can be read again, by others too."""

import av
import numpy as np
import pytest
from PIL import Image

from vdm_jax import video_io


@pytest.fixture
def video():
  """Six frames [6, 24, 32, 3]; colours vary slowly, for yuv420p keeps a quarter."""
  t, y, x = np.meshgrid(np.arange(6), np.arange(24), np.arange(32), indexing="ij")
  waves = [np.sin((x + y) / 20 + t / 3 + phase) for phase in (0.0, 1.0, 2.0)]
  return np.rint(np.stack(waves, axis=-1) * 100 + 128).astype(np.uint8)


def psnr(a, b):
  return 10 * np.log10(255**2 / np.mean((a.astype(float) - b.astype(float)) ** 2))


def test_mp4_comes_back_nearly_equal(tmp_path, video):
  video_io.write_mp4(tmp_path / "a.mp4", video, fps=8)
  back = video_io.read_mp4(tmp_path / "a.mp4")
  assert back.shape == video.shape and back.dtype == np.uint8
  assert psnr(back, video) > 35
  assert psnr(back[::-1], video) < 25  # the measure sees another order of frames
  again = np.stack(list(video_io.iterate_frames(tmp_path / "a.mp4")))
  assert np.array_equal(again, back)


@pytest.mark.parametrize("fps", [8, 7.5, 29.97])
def test_mp4_is_what_browsers_play(tmp_path, video, fps):
  video_io.write_mp4(tmp_path / "a.mp4", video, fps=fps)
  with av.open(str(tmp_path / "a.mp4")) as container:
    stream = container.streams.video[0]
    assert stream.codec_context.name == "h264" and stream.pix_fmt == "yuv420p"
    assert abs(float(stream.average_rate) - fps) < 1e-3
    assert stream.frames == 6


def test_colours_are_tagged_and_guessed_as_players_do(tmp_path):
  """BT.709 from HD on, BT.601 below: what is not tagged is read so, too."""
  colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (200, 150, 30)]
  for height, width, matrix in ((64, 128, 5), (720, 1280, 1)):
    bars = np.repeat(np.array(colours, np.uint8)[None], width // 4, axis=1)
    video = np.repeat(bars[None], 2 * height, axis=0).reshape(2, height, width, 3)
    video_io.write_mp4(tmp_path / "a.mp4", video, crf=5)
    with av.open(str(tmp_path / "a.mp4")) as container:
      frame = next(container.decode(video=0))
      assert (int(frame.colorspace), int(frame.color_range)) == (matrix, 1)
      converter = av.video.reformatter.VideoReformatter()
      seen = [video_io.frame_pixels(frame, converter)]
      frame.colorspace, frame.color_range = 2, 0  # as in a file without tags
      seen.append(video_io.frame_pixels(frame, converter))
      frame.colorspace = 6 - matrix  # and in one that names the other matrix
      other = video_io.frame_pixels(frame, converter)
    errors = np.abs(np.stack([*seen, other]).astype(int) - video[0])
    errors = errors[:, :, width // 8 :: width // 4].max((1, 2, 3))
    assert errors[:2].max() <= 3 and errors[2] > 15


def test_scale_repeats_pixels_and_odd_sizes_grow_by_an_edge(tmp_path, video):
  video_io.write_mp4(tmp_path / "big.mp4", video[:, :16, :16], scale=4)
  assert video_io.read_mp4(tmp_path / "big.mp4").shape == (6, 64, 64, 3)
  video_io.write_mp4(tmp_path / "odd.mp4", video[:, :15, :17])
  back = video_io.read_mp4(tmp_path / "odd.mp4")
  assert back.shape == (6, 16, 18, 3)
  assert psnr(back[:, :15, :17], video[:, :15, :17]) > 32


def test_gif_and_png_open_elsewhere_with_the_right_size(tmp_path, video):
  still = np.concatenate([video, video[-1:]])  # two equal frames at the end
  video_io.write_gif(tmp_path / "a.gif", still, fps=5, scale=2)
  with Image.open(tmp_path / "a.gif") as gif:
    assert gif.size == (64, 48)
    shown = 0
    for i in range(gif.n_frames):
      gif.seek(i)
      shown += gif.info["duration"]
    assert shown == 7 * 200  # milliseconds
    last = np.asarray(gif.convert("RGB"))[::2, ::2]
  assert np.abs(last.astype(int) - video[-1]).mean() < 4

  clips = np.stack([video, video[::-1], video])
  video_io.write_png(tmp_path / "a.png", video_io.frame_sheet(clips, gap=2), scale=3)
  with Image.open(tmp_path / "a.png") as png:
    sheet = np.asarray(png)[::3, ::3]
  assert sheet.shape == (3 * 26 - 2, 6 * 34 - 2, 3)
  assert np.array_equal(sheet[26:50, 34:66], clips[1, 1])  # row 1: clip 1, frame 1


def test_grid_places_clips_in_rows(video):
  clips = np.stack([video + np.uint8(i) for i in range(5)])
  sheet = video_io.video_grid(clips, columns=3, gap=1)
  assert sheet.shape == (6, 2 * 25 - 1, 3 * 33 - 1, 3)
  assert np.array_equal(sheet[:, 25:, 33:65], clips[4])
  assert not sheet[:, 25:, 66:].any()  # the sixth place is empty
  # Of 5 clips, the nearest is 2 x 3.
  assert video_io.video_grid(clips).shape == sheet.shape


def test_floats_are_written_from_minus_one_to_one():
  levels = video_io.to_uint8(np.array([-1.0, 0.0, 1.0, 3.0]))
  assert levels.tolist() == [0, 128, 255, 255]
  with pytest.raises(ValueError, match="NaN"):
    video_io.to_uint8(np.array([np.nan]))
  with pytest.raises(TypeError, match="int64"):
    video_io.to_uint8(np.zeros(2, np.int64))


@pytest.mark.parametrize("shape", [(6, 24, 32), (6, 24, 32, 1), (0, 24, 32, 3)])
def test_a_wrong_shape_is_named_and_writes_nothing(tmp_path, shape):
  for write in (video_io.write_mp4, video_io.write_gif):
    with pytest.raises(ValueError, match=r"wanted \[T, H, W, 3\]"):
      write(tmp_path / "a", np.zeros(shape, np.uint8))
  assert not list(tmp_path.iterdir())


def test_a_failed_write_keeps_the_old_file(tmp_path, video, monkeypatch):
  target = tmp_path / "a.gif"
  video_io.write_gif(target, video)
  before = target.read_bytes()

  def torn(self, file, **kwargs):
    with open(file, "wb") as f:
      f.write(b"half")
    raise OSError("disk full")

  monkeypatch.setattr(Image.Image, "save", torn)
  with pytest.raises(OSError, match="disk full"):
    video_io.write_gif(target, video[::-1])
  assert target.read_bytes() == before
  assert [p.name for p in tmp_path.iterdir()] == ["a.gif"]
