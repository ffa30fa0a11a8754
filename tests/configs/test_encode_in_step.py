"""Full-size configs train on clips and captions as they are, with small networks."""

import json

import jax
import numpy as np
import pytest

from tests.configs import tiny
from tests.support import drawn, image_encoders, suite, text_encoders, video_files
from vdm_jax import config as c
from vdm_jax import pretrained, sharding
from vdm_jax.aot import programs
from vdm_jax.programs import job

pytestmark = pytest.mark.usefixtures("unoptimized")

CAPTIONS = ("the bird", "the sea", "a bird")
LENGTH, WIDTH = 12, 16
PARTS = ("autoencoder", "text")
SMALL = dict(channels=(8,), attention=(False,), layers=1, groups=4)


def text_to_image():
  cfg = tiny.get_config("configs.stable_diffusion", "raw")
  cfg.network.config.update(num_heads=2, **SMALL)
  return cfg


def image_to_video():
  cfg = tiny.get_config("configs.videocrafter", "i2v-raw")
  cfg.network.network.config.update(head_dim=4, **SMALL)
  heads = dict(num_heads=1, head_dim=8)
  sizes = dict(width=8, embedding=16, features=WIDTH, queries=2, expansion=1)
  cfg.resampler.update(depth=1, **heads, **sizes)
  cfg.encode.image_encoder.shape = (5, 16)
  return cfg


MAKE = {"text to image": text_to_image, "image to video": image_to_video}


def small(name, tmp_path):
  """(config, {frozen part: its folder}): small networks on disk, clips and captions."""
  for i in range(len(CAPTIONS)):
    video_files.movie(tmp_path / "videos" / "train" / f"{i}.mp4", 30 * i, num_frames=3)
  texts = {f"{i}.mp4": text for i, text in enumerate(CAPTIONS)}
  table = tmp_path / "videos" / "train" / "metadata.csv"
  video_files.write(table, video_files.rows(texts))

  cfg = MAKE[name]()
  assert not {"encode", "embed"} & set(cfg.stages)
  cfg.autoencoder.update(channels=(4, 8), groups=2, layers_per_block=1)
  autoencoder = c.build(cfg.autoencoder)
  video = np.zeros((1, 1, 8, 8, 3), np.float32)
  spec = jax.eval_shape(autoencoder.init, jax.random.key(0), video)
  latents = {"shift": np.zeros(4, np.float32), "scale": np.full(4, 2.0, np.float32)}
  params = drawn.like(spec) | {"latents": latents}
  pretrained.save(tmp_path / "vae", autoencoder, params)
  text_encoders.write(tmp_path / "published", LENGTH, WIDTH)
  folders = f"{tmp_path}/vae", f"{tmp_path}/published/text_encoder"
  frozen = dict(zip(PARTS, folders, strict=True))
  if "image_encoder" in cfg:
    frozen["image"] = cfg.image_encoder = f"{tmp_path}/clip"
    image_encoders.write(tmp_path / "clip")

  cfg.update(
    data=f"{tmp_path}/videos",
    text_encoder=f"{tmp_path}/published",
    pretrained_autoencoder=f"{tmp_path}/vae",
  )
  cfg.encoder.update(length=LENGTH, width=WIDTH)
  cfg.train_clips.update(num_frames=2, frame_interval=1)
  resize, crop, _ = cfg.train_videos.transforms
  resize.size = crop.height = 16
  cfg.train.loader.batch_size = 2
  cfg.train.steps = 3
  cfg.train.cadence.update(log=1, save=3)
  return cfg, frozen


def test_clips_captions_and_first_frames_are_encoded_in_the_step(tmp_path):
  """And in the loader for samples: raw training leaves no latents to begin them."""
  cfg, frozen = small("image to video", tmp_path)
  program = programs.training_program(cfg, sharding.make_mesh(dict(cfg.mesh)))
  trees = program.argument_trees
  assert set(trees["frozen networks"][0]) == set(frozen) == {*PARTS, "image"}
  batch = trees["batch"]
  assert {"video", "text_ids", "image_pixels"} < set(batch)
  assert not {"mean", "text", "image"} & set(batch)
  signals = c.build(cfg.sample.signals, tmp_path / "run")()
  assert signals["image"].shape == (3, 5, 16) and "image_latents" not in signals
  assert signals["text"].shape == signals["negative"].shape == (3, LENGTH, WIDTH)


@pytest.mark.parametrize("name", suite.choose(MAKE, "text to image"))
def test_it_trains_from_raw_clips_and_captions(name, tmp_path):
  cfg, frozen = small(name, tmp_path)
  # Absent chips compile the same step, from shapes alone.
  program = programs.training_program(cfg, sharding.make_mesh(dict(cfg.mesh)))
  assert set(program.argument_trees["frozen networks"][0]) == set(frozen)
  assert "text_ids" in program.argument_trees["batch"] and program.lower() is not None

  job.run_stages(cfg, ("train",), tmp_path / "run")

  folder = tmp_path / "run" / "denoiser"
  rows = [json.loads(row) for row in (folder / "log.jsonl").read_text().splitlines()]
  assert len(rows) == 3 and all(0 < row["loss"] < 100 for row in rows)
  meta = json.loads((folder / "checkpoints" / "3" / "meta" / "metadata").read_text())
  paths = {name: part["path"] for name, part in meta["frozen_parts"].items()}
  assert paths == frozen
