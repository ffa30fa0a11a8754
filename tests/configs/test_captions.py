"""Full-size configs on captioned clips and published folders, with small networks."""

import dataclasses

import flax
import jax
import numpy as np
import pytest

from tests.configs import tiny
from tests.support import video_files
from tests.support.published import pipelines
from vdm_jax import checkpoint, pretrained
from vdm_jax.autoencoders import kl_image
from vdm_jax.data import sources
from vdm_jax.pipelines import text_encoder
from vdm_jax.programs import job

# What it shares with test_encode_in_step.py is in the quick suite there.
pytestmark = pytest.mark.complete

CAPTIONS = ("the bird", "the sea", "a bird", "the bird", "the sea", "a bird")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
  """(folder of Stable Diffusion with small networks, of captioned clips)."""
  folder = tmp_path_factory.mktemp("place")
  pipelines.write("stable_diffusion", folder / "sd")
  for split in ("train", "test"):
    clips = folder / "videos" / split
    for i in range(len(CAPTIONS)):
      video_files.movie(clips / f"{i}.mp4", 30 * i, num_frames=4)
    captions = {f"{i}.mp4": text for i, text in enumerate(CAPTIONS)}
    video_files.write(clips / "metadata.csv", video_files.rows(captions))
  return folder


def small(cfg, place):
  """The config on this data, with networks of these sizes and few steps."""
  network = dict(channels=(64, 64), attention=(True, False), layers=1)
  for part in (cfg.network, cfg.image_network):
    part.config.update(**network, num_heads=4)
  for clips in (cfg.train_clips, cfg.test_clips):
    clips.update(num_frames=4, frame_interval=1)
  cfg.update(
    data=f"{place}/videos",
    text_encoder=f"{place}/sd",
    pretrained=f"{place}/sd/unet",
    pretrained_autoencoder=f"{place}/sd/vae",
  )
  resize, crop, _ = cfg.encode.source.transforms
  resize.size = crop.height = 16
  cfg.encoder.width = pipelines.WIDTH
  fields = pretrained.load(f"{place}/sd/vae")[0]
  names = {field.name for field in dataclasses.fields(kl_image.KLImage)}
  cfg.autoencoder.update({k: getattr(fields, k) for k in names & set(cfg.autoencoder)})
  cfg.train.steps = 2
  cfg.train.cadence.update(save=2, log=1)
  cfg.train.loader.batch_size = 2
  cfg.ts.num_steps = 2
  cfg.sample.generator.shape = (4, 8, 8, 4)
  cfg.sample.batch_size = 2
  cfg.sample.signals.count = 4
  return cfg


@pytest.fixture(scope="module")
def run(place, tmp_path_factory):
  """(config, workdir) of AnimateDiff trained around the published image model."""
  cfg, workdir = (
    small(tiny.get_config("configs.animatediff", "v2"), place),
    tmp_path_factory.mktemp("run"),
  )
  job.run_stages(cfg, ("embed", "encode", "train", "sample"), workdir)
  return cfg, workdir


def test_texts_are_embedded_as_stable_diffusion_reads_them(run, place):
  _, workdir = run
  source = sources.RecordFolder(workdir / "texts")
  expected = ["", "a bird", "the bird", "the sea"]
  assert source.meta["texts"] == expected
  theirs = pipelines.read("stable_diffusion")["embeddings"]
  ours = np.stack([source[i]["text"] for i in range(4)])
  known = ~np.isnan(theirs)
  error = lambda x: np.abs(x - theirs)[known].max() / np.abs(theirs[known]).max()
  assert error(ours) < 2e-3 < 0.1 < error(ours[[0, 2, 1, 3]])
  assert all(source[i]["text_mask"].all() for i in range(4))  # padding is read

  with pytest.raises(
    ValueError, match=r"encodes a text as \[77, 12\]; width=13 was asked"
  ):
    text_encoder.TextEncoder(place / "sd", 77, width=13)(["the sea"])


def test_motion_is_trained_around_the_published_image_model(run, place):
  cfg, workdir = run
  flat = lambda tree: flax.traverse_util.flatten_dict(tree, sep="/")
  state = workdir / "denoiser" / "checkpoints"
  frozen = flat(checkpoint.restore_part(state, "frozen"))
  expected = flat(pretrained.load(place / "sd" / "unet")[1])
  assert frozen.keys() == expected.keys()
  jax.tree.map(np.testing.assert_array_equal, frozen, expected)
  moved = flat(checkpoint.restore_part(state, "params"))
  assert moved and all("temporal" in name for name in moved)


def test_samples_are_of_held_out_captions_or_of_prompts(run):
  cfg, workdir = run
  read = lambda: dict(np.load(workdir / "samples" / "videos.npz"))
  found, embedded = read(), sources.RecordFolder(workdir / "texts")
  row = {text: embedded[i]["text"] for i, text in enumerate(embedded.meta["texts"])}
  assert found["video"].shape == (4, 4, 16, 16, 3)
  for text, values in zip(CAPTIONS, found["text"], strict=False):
    np.testing.assert_allclose(values, row[text], rtol=2e-3, atol=2e-3)
  np.testing.assert_allclose(found["negative"][3], row[""], rtol=2e-3, atol=2e-3)
  prompts = workdir / "prompts.txt"
  prompts.write_text("the sea\nthe sea the bird\n")
  cfg.prompts = str(prompts)
  cfg.test_clips.path = "nowhere"
  job.run_stages(cfg, ("sample",), workdir)
  other = read()
  assert other["video"].shape == (2, 4, 16, 16, 3)
  np.testing.assert_array_equal(other["text"][0], found["text"][1])
