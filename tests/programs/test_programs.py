"""The small decisions that programs take by themselves."""

import weakref

import numpy as np
import pytest

from tests.configs import tiny
from vdm_jax import config as c
from vdm_jax import video_io
from vdm_jax.data import sources
from vdm_jax.metrics import score
from vdm_jax.programs import evaluate, job, sample


def test_a_digest_is_of_the_bits():
  tree = {"a": np.ones(3, np.float32), "b": {"c": np.zeros(2)}}
  same = {"b": {"c": np.zeros(2)}, "a": np.ones(3, np.float32)}
  assert job.digest(tree) == job.digest(same)
  for other in (
    {**tree, "a": np.nextafter(tree["a"], np.float32(2))},
    {"a": tree["b"]["c"], "b": {"c": tree["a"]}},
  ):
    assert job.digest(tree) != job.digest(other)


def test_a_grid_has_one_row_for_each_class():
  labels = np.array([1, 0, 1, 0, 0, 1, 0])
  indices, columns = sample.grid_indices_and_columns(7, labels, 8)
  assert columns == 3  # as many as the rarest class has
  assert indices == [1, 3, 4, 0, 2, 5]
  indices, columns = sample.grid_indices_and_columns(7, None, 3)
  assert columns == 3 and indices == [0, 1, 2, 3, 4, 5]


def test_samples_are_written_batch_by_batch(tmp_path):
  """What is not for the grid is held no longer than its batch."""
  made = np.random.default_rng(0).integers(0, 256, (7, 3, 8, 8, 3), np.uint8)
  signals = {"label": np.array([1, 0, 1, 0, 0, 1, 0], np.int32)}
  alive = []

  def batches():
    for first in range(0, 7, 2):
      batch = made[first : first + 2].copy()
      alive.append(weakref.ref(batch))
      yield batch
      del batch
      assert sum(ref() is not None for ref in alive) <= 4, "of the grid, and one more"

  sample.write_samples_folder(tmp_path / "s", batches(), signals, {"a": "1"}, 8, 1, 1)
  with np.load(tmp_path / "s" / sample.VIDEOS, allow_pickle=False) as file:
    assert set(file) == {"video", "label"}
    np.testing.assert_array_equal(file["video"], made)
    np.testing.assert_array_equal(file["label"], signals["label"])
  names = sorted(path.name for path in (tmp_path / "s").glob("*.mp4"))
  assert names[:2] == ["00000_class1.mp4", "00001_class0.mp4"] and len(names) == 7
  assert sample.read_provenance(tmp_path / "s") == {"a": "1"}


def test_what_is_not_finite_is_an_error_that_says_where(tmp_path):
  """A cast to whole numbers would hide it."""
  latents, frames = np.ones((2, 3, 1, 1, 1)), np.ones((2, 6, 2, 2, 3))
  finite = lambda **x: {k: video_io.finite_frames(v) for k, v in x.items()}
  made = np.zeros((2, 6, 2, 2, 3), np.uint8)
  good = [(made, finite(latents=latents, frames=frames))]
  assert len(list(sample.finite_videos(good * 2))) == 2
  frames[1, 4, 0, 1] = np.inf
  bad = (made, finite(latents=latents, frames=frames))
  with pytest.raises(FloatingPointError, match="frames of video 3 .* frame 4, and 1"):
    list(sample.finite_videos([*good, bad]))
  latents[0, 2] = np.nan
  bad = (made, finite(latents=latents, frames=frames))
  with pytest.raises(FloatingPointError, match="latents of video 0 .* in frame 2"):
    videos, signals = sample.finite_videos([bad]), {"index": np.arange(2)}
    sample.write_samples_folder(tmp_path / "s", videos, signals, {}, 8, 1, 1)
  assert not (tmp_path / "s").exists()


def test_real_clips_have_the_labels_of_the_samples():
  labels = np.tile(np.arange(3), 4)
  source = sources.ArraySource({"video": np.arange(12), "label": labels})
  expected = np.array([2, 2, 0, 2, 1])
  clips = score.LabelledVideos(videos=np.zeros(5), labels=expected)
  got = evaluate.draw_label_matched_clips(clips, source, np.random.default_rng(0))
  assert got.labels.tolist() == expected.tolist()
  assert len(set(got.videos.tolist())) == 5  # no clip twice while there are others
  clips = score.LabelledVideos(videos=np.zeros(1), labels=np.array([7]))
  with pytest.raises(ValueError, match="class 7, of which the real clips hold none"):
    evaluate.draw_label_matched_clips(clips, source, np.random.default_rng(0))


def test_unlabelled_real_clips_are_drawn_without_repetition():
  source = sources.ArraySource({"video": np.arange(6)})
  clips = score.LabelledVideos(videos=np.zeros(6))
  got = evaluate.draw_label_matched_clips(clips, source, np.random.default_rng(0))
  assert sorted(got.videos.tolist()) == list(range(6)) and got.labels is None


def test_json_is_written_whole(tmp_path):
  job.write_json(tmp_path / "new" / "a.json", {"a": [1, 2]})
  assert (tmp_path / "new" / "a.json").read_text().startswith("{")
  with pytest.raises(TypeError):
    job.write_json(tmp_path / "new" / "a.json", {"a": object()})
  assert "2" in (tmp_path / "new" / "a.json").read_text()


def test_an_error_of_the_command_line_is_explained():
  flag = "--config.network.dept=3"
  missing = AttributeError('Key "dept" does not exist and cannot be added.')
  said = c.flag_error_message
  assert said([flag], missing) == f"{flag}: the config has no field 'dept'."
  near = KeyError('\'dept\'\nDid you mean "depth" instead of "dept"?')
  assert said([flag], near) == f"{flag}: no field 'dept'. Did you mean 'depth'?"
  assert said([], ValueError("something else")) == "something else"


def test_a_file_that_a_later_stage_needs_is_missed_at_once(tmp_path):
  cfg = tiny.get_config("configs.svd", "full")
  for name in ("pretrained_autoencoder", "image_encoder"):
    setattr(cfg, name, str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match=f"encode needs --config.{name}.*where"):
      job.run_stages(cfg, cfg.stages, tmp_path / "run")
    setattr(cfg, name, str(tmp_path))
  assert not (tmp_path / "run").exists()
  with pytest.raises(FileNotFoundError, match="train.* needs --config.pretrained:"):
    cfg.pretrained = "nowhere"
    job.run_stages(cfg, ("train",), tmp_path / "run")


def test_small_videos_come_from_clips_or_from_samples(tmp_path):
  rng = np.random.default_rng(0)
  video = rng.integers(0, 256, (3, 2, 8, 8, 3), np.uint8)
  label = np.array([4, 5, 6], np.int32)
  source = sources.ArraySource({"video": video, "label": label})
  rows = sample.low_resolution_signals(source=source, count=2, factor=2)
  assert rows["low"].shape == (2, 2, 4, 4, 3) and rows["label"].tolist() == [4, 5]
  np.savez_compressed(tmp_path / sample.VIDEOS, video=video, label=label)
  made = sample.low_resolution_signals_of_samples(path=tmp_path, factor=2)
  assert made["label"].tolist() == [4, 5, 6] and set(made) == {"low", "label"}
  np.testing.assert_array_equal(made["low"][:2], rows["low"])
  whole = sample.low_resolution_signals_of_samples(path=tmp_path)
  np.testing.assert_array_equal(whole["low"], video)
