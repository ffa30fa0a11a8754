"""A full-size config trains on clips and captions as they are, with small networks."""

import json

import jax
import numpy as np

from tests.configs import tiny
from tests.support import text_encoders, video_files
from vdm_jax import config as c
from vdm_jax import pretrained, sharding
from vdm_jax.aot import programs
from vdm_jax.programs import job

CAPTIONS = ("the bird", "the sea", "a bird")
LENGTH, WIDTH = 12, 16


def test_it_trains_from_raw_clips_and_captions(tmp_path):
  for i in range(len(CAPTIONS)):
    video_files.movie(tmp_path / "videos" / "train" / f"{i}.mp4", 30 * i, num_frames=3)
  texts = {f"{i}.mp4": text for i, text in enumerate(CAPTIONS)}
  table = tmp_path / "videos" / "train" / "metadata.csv"
  video_files.write(table, video_files.rows(texts))

  cfg = tiny.get_config("configs.stable_diffusion", "raw")
  assert not {"encode", "embed"} & set(cfg.stages)
  cfg.autoencoder.update(channels=(4, 8), groups=2, layers_per_block=1)
  autoencoder = c.build(cfg.autoencoder)
  video = np.zeros((1, 1, 8, 8, 3), np.float32)
  spec = jax.eval_shape(autoencoder.init, jax.random.key(0), video)
  latents = {"shift": np.zeros(4, np.float32), "scale": np.full(4, 2.0, np.float32)}
  params = text_encoders.drawn(spec, 1) | {"latents": latents}
  pretrained.save(tmp_path / "vae", autoencoder, params)
  text_encoders.write(tmp_path / "published", LENGTH, WIDTH)

  cfg.update(
    data=f"{tmp_path}/videos",
    text_encoder=f"{tmp_path}/published",
    pretrained_autoencoder=f"{tmp_path}/vae",
  )
  cfg.encoder.update(length=LENGTH, width=WIDTH)
  small = dict(channels=(8,), attention=(True,), layers=1, groups=4, num_heads=2)
  cfg.network.config.update(small)
  cfg.train_clips.update(num_frames=2, frame_interval=1)
  resize, crop, _ = cfg.train_videos.transforms
  resize.size = crop.height = 16
  cfg.train.loader.batch_size = 2
  cfg.train.steps = 3
  cfg.train.cadence.update(log=1, save=3)
  # Absent chips compile the same step, from shapes alone.
  program = programs.training_program(cfg, sharding.make_mesh(dict(cfg.mesh)))
  assert set(program.trees["frozen networks"][0]) == {"autoencoder", "text"}
  assert "text_ids" in program.trees["batch"] and program.lower() is not None

  job.run_stages(cfg, ("train",), tmp_path / "run")

  folder = tmp_path / "run" / "denoiser"
  rows = [json.loads(row) for row in (folder / "log.jsonl").read_text().splitlines()]
  assert len(rows) == 3 and all(0 < row["loss"] < 100 for row in rows)
  meta = json.loads((folder / "checkpoints" / "3" / "meta" / "metadata").read_text())
  paths = {name: part["path"] for name, part in meta["frozen_parts"].items()}
  assert paths == {
    "autoencoder": f"{tmp_path}/vae",
    "text": f"{tmp_path}/published/text_encoder",
  }
