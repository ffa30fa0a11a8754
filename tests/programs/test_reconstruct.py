"""An autoencoder is measured on every frame of every clip, and the numbers agree."""

import json

import jax
import numpy as np
import pytest
from PIL import Image

from vdm_jax import checkpoint, sharding
from vdm_jax.data import sources
from vdm_jax.metrics import frames
from vdm_jax.programs import job, reconstruct, sample


class Darker:
  """A task whose reconstruction is darker by params["shift"] of [-1, 1]."""

  def reconstruct(self, params, video):
    return video / 127.5 - 1.0 - params["shift"]


def test_a_preview_has_each_clip_above_its_reconstruction():
  videos = np.random.default_rng(0).integers(40, 256, (3, 2, 4, 4, 3), np.uint8)
  made = sample.reconstruction_preview(
    None,
    {"shift": np.float32(40 / 127.5)},
    None,
    task=Darker(),
    source=[{"video": video} for video in videos],
    count=2,
  )
  assert made.dtype == np.uint8
  np.testing.assert_array_equal(made[::2], videos[:2])
  np.testing.assert_array_equal(made[1::2], videos[:2] - 40)


def test_the_mean_error_is_ruled_by_the_worst_clip():
  real = np.full((3, 2, 16, 16, 3), 128, np.uint8)
  made = real.copy()
  made[0] += 1
  made[1] += 4
  made[2, 0] += 2
  made[2, 1] += 16
  values, each = reconstruct.reconstruction_scores_and_clip_psnr(made, real)
  ratio = lambda error: 10 * np.log10(255**2 / error)
  expected = [ratio(1), ratio(16), (ratio(4) + ratio(256)) / 2]
  np.testing.assert_allclose(each, expected)
  np.testing.assert_allclose(values["psnr (dB)"], np.mean(expected))
  np.testing.assert_allclose(values["psnr of the worst clip (dB)"], expected[2])
  np.testing.assert_allclose(values["psnr of the worst frame (dB)"], ratio(256))
  mean = (1 + 1 + 16 + 16 + 4 + 256) / 6
  name = "psnr of the mean squared error (dB)"
  np.testing.assert_allclose(values[name], ratio(mean))
  assert values[name] < values["psnr (dB)"]


def test_equal_clips_have_a_finite_ratio_and_noise_lowers_all():
  real = np.random.default_rng(1).integers(0, 255, (1, 1, 16, 16, 3), np.uint8)
  same, _ = reconstruct.reconstruction_scores_and_clip_psnr(real, real)
  assert same["psnr (dB)"] == 100 and same["ssim"] == pytest.approx(1)
  noise = 20 * np.random.default_rng(0).normal(size=real.shape)
  noisy = np.clip(real + noise, 0, 255).astype(np.uint8)
  worse, _ = reconstruct.reconstruction_scores_and_clip_psnr(noisy, real)
  assert all(worse[name] < same[name] for name in same)


def test_the_program_measures_the_averaged_weights_and_shows_pairs(tmp_path):
  mesh = sharding.make_mesh(dict(data=-1))
  video = np.random.default_rng(2).integers(60, 255, (3, 2, 16, 16, 3), np.uint8)
  saver = checkpoint.Checkpointer(tmp_path / "autoencoder" / "checkpoints")
  state = {"params": {"shift": np.float32(0)}, "ema": {"shift": np.float32(10 / 127.5)}}
  saver.save(1, state, key=jax.random.key(0), loader_state={})
  saver.close()
  task = job.Job(tmp_path, "reconstruct", 0, mesh, (("batch", "data"),), {})
  reconstruct.reconstruct_and_score(
    task,
    task=Darker(),
    weights="autoencoder",
    source=sources.Transformed(sources.ArraySource({"video": video}), ()),
    batch_size=2,
    preview_clips=2,
  )
  place = tmp_path / "reconstruction"
  scores = json.loads((place / "metrics.json").read_text())
  expected = frames.psnr_per_video(video - 10, video).mean()
  assert scores["psnr (dB)"]["value"] == pytest.approx(expected, abs=1e-6)
  assert scores["psnr (dB)"]["protocol"]["frames"] == 2
  assert len(scores["clips"]) == 3
  picture = np.asarray(Image.open(place / "clips.png")).astype(int)
  assert picture.shape == (2 * 17 - 1, 2 * 17 - 1, 3)
  assert (picture[:16, :16] - picture[17:, :16] == 10).all()
