"""What CLIP sees in first frames is stored with the latents, for networks to read."""

import functools

import jax
import numpy as np
import pytest

from tests.support import drawn
from tests.support.image_encoders import ENCODER, write
from vdm_jax import sharding
from vdm_jax.autoencoders import kl_image
from vdm_jax.conditioners import conditioner
from vdm_jax.data import loader, pictures, sources
from vdm_jax.diffusion import process
from vdm_jax.encoders import clip_pixels
from vdm_jax.pipelines import image_encoder
from vdm_jax.programs import encode, sample
from vdm_jax.programs import job as job_lib
from vdm_jax.tasks import latent_diffusion

PICTURES = np.random.default_rng(0).integers(0, 256, (5, 20, 24, 3), np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """(an image encoder's folder, its parameters)."""
  path = tmp_path_factory.mktemp("image_encoder")
  return path, write(path)


@pytest.mark.parametrize("shape, method", [((1, 8), None), ((5, 16), "tokens")])
def test_tokens_are_the_encoders(folder, shape, method):
  """A batch of 2 and a rest of 1, on two devices; of the whole, or of the patches."""
  path, params = folder
  seen = image_encoder.ImageEncoder(path, shape, batch_size=2)(PICTURES)
  pixels = clip_pixels.preprocess(PICTURES, 32)
  apply = jax.jit(functools.partial(ENCODER.apply, method=method))
  expected = np.asarray(apply(params, pixels))
  assert seen.shape == (5, *shape) and seen.dtype == np.float32
  np.testing.assert_allclose(seen, expected.reshape(seen.shape), atol=1e-5)
  assert np.abs(seen[1:] - seen[:-1]).max() > 0.1  # each picture its own


def test_the_loader_preprocesses_without_weights(folder):
  encoder = image_encoder.ImageEncoder(folder[0])
  assert encoder.preprocess(PICTURES).shape == (5, 32, 32, 3)
  assert "params" not in vars(encoder.network)


def test_what_is_no_encoder_or_another_is_refused(folder, tmp_path):
  with pytest.raises(FileNotFoundError, match="no network in .*give the path"):
    image_encoder.ImageEncoder(tmp_path / "none")(PICTURES)
  with pytest.raises(ValueError, match=r"\[1, 8\] of a picture; shape=\(1, 1024\)"):
    image_encoder.ImageEncoder(folder[0])(PICTURES)


def test_tokens_are_the_same_from_disk_in_the_loader_and_in_the_step(folder, tmp_path):
  autoencoder = kl_image.KLImage(channels=(4, 4), groups=2, layers_per_block=1)
  video = np.stack([PICTURES, PICTURES[::-1]], axis=1)[:, :, :16, :16]
  source = sources.ArraySource({"video": video, "label": np.arange(5)})
  shapes = jax.eval_shape(autoencoder.init, jax.random.key(0), video / 255.0)
  params = drawn.like(shapes)
  params["latents"] = {"shift": np.zeros(4), "scale": np.ones(4)}
  mesh = sharding.make_mesh(dict(data=-1))
  job = job_lib.Job(tmp_path, "encode", 0, mesh, (("batch", "data"),), {})
  encoder = image_encoder.ImageEncoder(folder[0], (1, 8), batch_size=2)
  run = lambda encoder: encode.run(
    job,
    source=source,
    autoencoder=autoencoder,
    weights=params,
    batch_size=3,
    image_encoder=encoder,
  )
  run(encoder)
  made = sources.RecordFolder(tmp_path / "latents")
  expected = encoder(video[:, 0])
  found = np.stack([made[i]["image"] for i in range(5)])
  np.testing.assert_array_equal(found, expected.astype(np.float16))
  batches = []
  for read in (pictures.AddFirstFrameTokens, pictures.PreprocessFirstFrame):
    clips = sources.Transformed(source, (read(encoder),))
    batches.append(next(loader.Loader(clips, 5, shuffle=False)))
  in_loader, in_step = batches
  np.testing.assert_allclose(in_loader["image"], expected, atol=1e-5)
  assert "image" not in in_step and in_step["image_pixels"].shape == (5, 32, 32, 3)
  task = latent_diffusion.LatentDiffusion(
    network=None,
    process=process.Flow(),
    prediction="velocity",
    conditioner=conditioner.Image(form="tokens"),
    encoders={"image": encoder},
  )
  assert task.frozen_parts(in_step) == ["image"]
  in_step = jax.jit(task.encode)(in_step, {"image": folder[1]})
  assert "image_pixels" not in in_step
  np.testing.assert_allclose(in_step["image"], expected, atol=1e-5)

  signals = sample.first_frame_signals(source=made, count=2)
  cond, _ = conditioner.Image(from_first_frame=True)(signals)
  np.testing.assert_array_equal(cond.tokens["image"].values, found[:2])
  assert cond.channels["image"].shape == (2, 1, 8, 8, 4)
  run(encoder)  # it is there already
  with pytest.raises(ValueError, match="made with other image_encoder;"):
    run(None)
