"""Published pipelines, whole: from embeddings and latents to frames, as diffusers."""

import functools
import json

import diffusers
import jax
import numpy as np
import pytest
import torch
from einops import rearrange

import vdm_jax
from tests.parity import pipelines
from tests.support import parity_table
from tests.support.published import rows_networks
from tests.support.suite import seeds

STEPS = 50
BOUND = 1e-3  # of a trajectory, times max|ref|


# A published pipeline has one of these; 50 steps of each.
BETAS = dict(beta_schedule="linear", beta_start=1e-4, beta_end=0.02)
SCHEDULERS = (
  diffusers.DDIMScheduler(clip_sample=False, **BETAS),
  diffusers.DPMSolverMultistepScheduler(**BETAS),
  diffusers.EulerDiscreteScheduler(timestep_spacing="trailing", **BETAS),
  diffusers.UniPCMultistepScheduler(use_karras_sigmas=True, **BETAS),
  diffusers.DDIMScheduler(
    clip_sample=False, timestep_spacing="trailing", set_alpha_to_one=False, **BETAS
  ),
)
SEEDS = seeds(len(SCHEDULERS))
# Their DiTPipeline steps from the input that Euler's scheduler scaled: not Euler, then.
OF_PICTURES = list(SCHEDULERS)
OF_PICTURES[2] = diffusers.DPMSolverMultistepScheduler(
  solver_order=3, use_karras_sigmas=True, **BETAS
)


def opened(theirs, folder, **more):
  """(their pipeline, its folder, ours); `more` stands in its index, as published."""
  theirs.set_progress_bar_config(disable=True)
  theirs.save_pretrained(folder)
  index = json.loads((folder / "model_index.json").read_text()) | more
  (folder / "model_index.json").write_text(json.dumps(index))
  return theirs, folder, vdm_jax.load(folder)


def make_latte(seed, folder):
  drawn = rows_networks.draw_latte(np.random.default_rng([11, seed]))
  # What the size of the latents and the pipeline ask for.
  fixed = dict(patch_size=2, sample_size=8, in_channels=4, out_channels=8)
  network = diffusers.LatteTransformer3DModel(
    **drawn | fixed | dict(caption_channels=12, video_length=3)
  )
  theirs = diffusers.LattePipeline(
    tokenizer=None,
    text_encoder=None,
    vae=pipelines.autoencoder(**pipelines.IMAGES),
    transformer=pipelines.fill(network),
    scheduler=SCHEDULERS[seed],
  )
  return opened(theirs, folder)


@pytest.fixture(scope="module", params=SEEDS)
def drawn_latte(request, tmp_path_factory):
  return make_latte(request.param, tmp_path_factory.mktemp("latte"))


@pytest.fixture(scope="module")
def latte(tmp_path_factory):
  return make_latte(0, tmp_path_factory.mktemp("latte"))


@pytest.fixture(scope="module")
def told():
  rng = np.random.default_rng(0)
  normal = lambda *shape: rng.standard_normal(shape).astype(np.float32)
  return dict(
    latents=normal(2, 3, 8, 12, 4), text=normal(2, 5, 12), negative=normal(2, 5, 12)
  )


def by_diffusers(theirs, told, output, guidance=7.5):
  torch_of = lambda x: torch.from_numpy(x)
  return theirs(
    prompt_embeds=torch_of(told["text"]),
    negative_prompt=None,
    negative_prompt_embeds=torch_of(told["negative"]),
    latents=torch_of(rearrange(told["latents"], "b t h w c -> b c t h w")),
    num_inference_steps=STEPS,
    guidance_scale=guidance,
    video_length=3,
    height=16,
    width=24,
    # The frames of all videos lie in a row there: more than these would mix videos.
    decode_chunk_size=3,
    output_type=output,
    mask_feature=False,
  ).frames


def encoded(pipeline, text, negative):
  """The batch of these embeddings."""
  return pipeline.encode(size=(16, 24), embeddings=text, negative_embeddings=negative)


def latents_of(pipeline, told, guidance=7.5):
  batch = encoded(pipeline, (told["text"], None), (told["negative"], None))
  with jax.default_matmul_precision("highest"):
    return pipeline.sample_latents(
      batch, told["latents"], jax.random.key(0), steps=STEPS, guidance=guidance
    )


def test_latte_gives_the_latents_of_its_original(drawn_latte, told, record_property):
  theirs, _, ours = drawn_latte
  out = latents_of(ours, told)
  wanted = by_diffusers(theirs, told, "latent").numpy()
  wanted = rearrange(wanted, "b c t h w -> b t h w c")
  error = np.abs(out - wanted).max() / np.abs(wanted).max()
  assert error < BOUND, error
  other = latents_of(ours, told | {"negative": told["text"]})
  control = np.abs(other - wanted).max() / np.abs(wanted).max() / BOUND
  assert control > 10
  row = "LattePipeline, 50 steps, guidance 7.5"
  note = functools.partial(parity_table.note, record_property, row)
  note(error=float(error), bound=BOUND, control=float(control))


def test_latte_gives_the_frames_of_its_original(drawn_latte, told):
  theirs, _, ours = drawn_latte
  with jax.default_matmul_precision("highest"):
    video = ours(
      embeddings=(told["text"], None),
      negative_embeddings=(told["negative"], None),
      latents=told["latents"],
      steps=STEPS,
      guidance=7.5,
      key=jax.random.key(0),
    )
  assert video.dtype == np.uint8 and video.shape == (2, 3, 16, 24, 3)
  wanted = np.rint(255 * np.asarray(by_diffusers(theirs, told, "np")))
  assert np.abs(video.astype(float) - wanted).max() <= 1
  assert video.std() > 5


def test_the_temporal_decoder_takes_the_place_of_the_other(latte, told):
  theirs, folder, _ = latte
  decoder = pipelines.autoencoder(
    diffusers.AutoencoderKLTemporalDecoder, **pipelines.ENCODER
  )
  decoder.save_pretrained(folder / "vae_temporal_decoder")
  ours = vdm_jax.load(folder, autoencoder="vae_temporal_decoder")
  with jax.default_matmul_precision("highest"):
    video = ours(
      embeddings=(told["text"], None),
      negative_embeddings=(told["negative"], None),
      latents=told["latents"],
      steps=STEPS,
      key=jax.random.key(0),
    )
  theirs.vae, usual = decoder, theirs.vae
  wanted = by_diffusers(theirs, told, "np")
  theirs.vae = usual
  assert np.abs(video.astype(float) - np.rint(255 * np.asarray(wanted))).max() <= 1


@pytest.fixture(scope="module", params=SEEDS)
def dit(request, tmp_path_factory):
  drawn = rows_networks.draw_dit(np.random.default_rng([12, request.param]))
  fixed = dict(patch_size=2, sample_size=8, in_channels=4, out_channels=8)
  # Their pipeline's "no class" is the id 1000.
  network = diffusers.DiTTransformer2DModel(
    **drawn | fixed | dict(num_embeds_ada_norm=1000)
  )
  theirs = diffusers.DiTPipeline(
    transformer=pipelines.fill(network),
    vae=pipelines.autoencoder(**pipelines.IMAGES),
    scheduler=OF_PICTURES[request.param],
  )
  labels = {"0": "tench, Tinca tinca", "7": "cock"}
  return opened(theirs, tmp_path_factory.mktemp("dit"), id2label=labels)


def test_dit_gives_the_pictures_of_its_original(dit, monkeypatch, record_property):
  theirs, _, ours = dit
  rng = np.random.default_rng(1)
  noise = rng.standard_normal((2, 4, 8, 8)).astype(np.float32)
  module = "diffusers.pipelines.dit.pipeline_dit.randn_tensor"
  monkeypatch.setattr(module, lambda *_, **__: torch.from_numpy(noise))
  wanted = theirs(
    class_labels=[0, 7],
    guidance_scale=7.5,
    num_inference_steps=STEPS,
    output_type="np",
  ).images

  def frames(*labels):
    with jax.default_matmul_precision("highest"):
      video = ours(
        labels,
        latents=rearrange(noise, "b c h w -> b 1 h w c"),
        steps=STEPS,
        guidance=7.5,
        key=jax.random.key(0),
      )
    return np.abs(video[:, 0].astype(float) - np.rint(255 * wanted)).max()

  error, control = frames("Tinca tinca", 7), frames(7, 0)
  assert error <= 1 < control
  row = "DiTPipeline, 50 steps, guidance 7.5, frames"
  note = functools.partial(parity_table.note, record_property, row)
  note(error=float(error), bound=1.0, control=float(control), unit="of 255")
