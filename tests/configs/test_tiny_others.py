"""Tiny runs of all other configs, most of them transformers, to the end."""

import functools
import shutil

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors import numpy

from tests.configs import tiny
from vdm_jax import checkpoint, log, pretrained, video_io
from vdm_jax import config as c
from vdm_jax.data import records, sources
from vdm_jax.programs import job, sample

pytestmark = pytest.mark.long


@pytest.mark.parametrize("name", tiny.OTHERS)
def test_tiny_runs_to_the_end(name, runs):
  tiny.check(*runs(name))


@pytest.mark.complete
def test_latte_trains_on_pictures_too(tmp_path):
  cfg = tiny.get_config("configs.latte", "tiny-images")
  job.run_stages(cfg, cfg.stages[: cfg.stages.index("train") + 1], tmp_path)
  row = log.read_log(tmp_path / "denoiser" / "log.jsonl")[-1]
  assert np.isfinite([row["loss"], row["image_mse"], row["bound"]]).all()


def test_latte_trains_on_and_samples_from_published_weights(runs, tmp_path):
  """A file in upstream's names, and an autoencoder's folder, in place of its own."""
  made, workdir = runs("configs.latte")
  network, autoencoder = c.build(made.network), c.build(made.autoencoder)
  read = functools.partial(checkpoint.restore_part, part="ema")
  params = read(workdir / "denoiser" / "checkpoints")
  state = pretrained.to_state_dict(network, params)
  numpy.save_file(
    {k: x + np.float32(0.01) for k, x in state.items()}, tmp_path / "w.safetensors"
  )
  decoder = read(workdir / "autoencoder" / "checkpoints")["autoencoder"]
  decoder["latents"] = {
    "shift": np.zeros(2, np.float32),
    "scale": np.full(2, 4.0, np.float32),
  }
  pretrained.save(tmp_path / "vae", autoencoder, decoder)

  cfg = tiny.get_config("configs.latte", "tiny")
  cfg.pretrained = str(tmp_path / "w.safetensors")
  cfg.pretrained_autoencoder = str(tmp_path / "vae")
  cfg.train.optimizer.learning_rate = 0.0
  for name in ("data", "autoencoder"):
    shutil.copytree(workdir / name, tmp_path / "run" / name)
  job.run_stages(cfg, ("encode", "train", "sample"), tmp_path / "run")
  moved = read(tmp_path / "run" / "denoiser" / "checkpoints")
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a + 0.01, b, atol=1e-6), params, moved
  )
  meta = records.read_meta(tmp_path / "run" / "latents")
  assert meta["scale"] == [4.0, 4.0]
  assert (tmp_path / "run" / "samples" / "grid.png").is_file()


def test_the_quickstart_writes_what_a_newcomer_looks_at(runs):
  cfg, workdir = runs("configs.quickstart")
  count = 10 * cfg.sample.signals.per_class
  videos = sorted((workdir / "samples").glob("*.mp4"))
  assert len(videos) == count
  assert video_io.read_mp4(videos[0]).shape == (8, 64, 64, 3)
  gif = Image.open(workdir / "samples" / "grid.gif")
  assert gif.n_frames == 8
  sheet = Image.open(workdir / "samples" / "grid.png")
  assert sheet.size[1] == 4 * (10 * 17 - 1)  # one row per class
  with np.load(workdir / "samples" / sample.VIDEOS) as file:
    assert file["video"].shape == (count, 8, 16, 16, 3)
    assert file["label"].tolist() == sorted(file["label"].tolist())
  assert list((workdir / "denoiser" / "previews").glob("*.png"))


def test_a_second_run_of_the_same_command_does_nothing_again(runs, capsys):
  cfg, workdir = runs("configs.quickstart")
  before = {p: p.stat().st_mtime_ns for p in (workdir / "samples").rglob("*")}
  job.run_stages(cfg, ("autoencode", "encode", "train", "sample"), workdir)
  said = capsys.readouterr().out
  assert said.count("done already") == 2
  assert "encoded already" in said and "there already" in said
  assert before == {p: p.stat().st_mtime_ns for p in (workdir / "samples").rglob("*")}


def test_latents_of_other_settings_are_refused_and_samples_are_made_anew(
  runs, tmp_path
):
  cfg, workdir = runs("configs.quickstart")
  copy = tmp_path / "run"
  shutil.copytree(workdir, copy)
  cfg = tiny.get_config("configs.quickstart", "tiny")
  cfg.encode.batch_size = 100
  with pytest.raises(ValueError, match="other settings; delete the folder"):
    job.run_stages(cfg, ("encode",), copy)
  cfg.guide.scales = (1.5,)
  old = sample.read_provenance(copy / "samples")
  job.run_stages(cfg, ("sample",), copy)
  assert sample.read_provenance(copy / "samples") != old
  with np.load(copy / "samples" / sample.VIDEOS) as new:
    with np.load(workdir / "samples" / sample.VIDEOS) as first:
      assert (new["video"] != first["video"]).any()


def test_a_stage_without_the_one_before_it_says_so(tmp_path):
  cfg = tiny.get_config("configs.quickstart", "tiny")
  with pytest.raises(FileNotFoundError, match="Train first"):
    job.run_stages(cfg, ("encode",), tmp_path)
  with pytest.raises(FileNotFoundError, match="write it first"):
    job.run_stages(cfg, ("train",), tmp_path)
  with pytest.raises(FileNotFoundError, match="sample first"):
    job.run_stages(cfg, ("evaluate",), tmp_path)


def test_encoded_latents_have_unit_variance(runs):
  _, workdir = runs("configs.quickstart")
  assert records.read_meta(workdir / "latents")["count"] == 400
  latents = sources.in_memory(sources.RecordFolder(workdir / "latents")).arrays
  second = np.square(latents["mean"]).mean() + np.exp(latents["logvar"]).mean()
  np.testing.assert_allclose(second, 1.0, atol=0.1)
