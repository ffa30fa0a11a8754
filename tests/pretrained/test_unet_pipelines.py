"""Trajectories of whole pipelines of the U-Net line, from embeddings and noise.

diffusers' pipelines run as they are, on tiny networks with random weights; ours opens
the saved U-Net and scheduler. No text or image encoder takes part.
"""

import functools

import diffusers
import jax
import numpy as np
import pytest
import torch
from diffusers.pipelines.deprecated.text_to_video_synthesis import (
  pipeline_text_to_video_synth as modelscope,
)
from einops import rearrange

from tests import parity
from tests.pretrained.test_pipeline import autoencoder, fill
from vdm_jax import pretrained
from vdm_jax.conditioning import Conditioning, Tokens
from vdm_jax.diffusion import guidance
from vdm_jax.tasks import latent_diffusion

STEPS, FRAMES, WIDTH = 10, 3, 12
BOUND = 1e-3  # of a trajectory, times max|ref|
BETAS = dict(beta_start=0.00085, beta_end=0.012)
# With one channel in each of the 32 groups, norms would hide all that time adds.
SMALL = dict(block_out_channels=(64, 64), layers_per_block=1)
VAE = dict(
  norm_num_groups=8,
  down_block_types=("DownEncoderBlock2D",) * 2,
  up_block_types=("UpDecoderBlock2D",) * 2,
)
torch.set_num_threads(1)


def blocks(end):
  down, up = ("CrossAttnDownBlock", "DownBlock"), ("UpBlock", "CrossAttnUpBlock")
  return dict(
    down_block_types=tuple(name + end for name in down),
    up_block_types=tuple(name + end for name in up),
    cross_attention_dim=WIDTH,
  )


def normal(seed, *shape):
  return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def torch_of(x):
  return torch.from_numpy(np.ascontiguousarray(x))


def told(values, **more):
  tokens = Tokens(values, np.ones(values.shape[:2], bool))
  return Conditioning(tokens={more.pop("name", "text"): tokens}, **more)


def sampled(pipe, folder, conds, noise, scale, signal="text"):
  """Ours: the saved network and scheduler, guided, from the same noise."""
  pipe.unet.save_pretrained(folder / "unet")
  pipe.scheduler.save_pretrained(folder / "scheduler")
  module, params = pretrained.load(folder / "unet")
  scheduler = pretrained.load_scheduler(folder / "scheduler")
  ts = scheduler.ts(num_steps=STEPS)
  task = latent_diffusion.LatentDiffusion(
    network=module,
    process=scheduler.process,
    prediction=scheduler.prediction,
    conditioner=lambda batch: jax.tree.map(jax.numpy.asarray, conds),
  )
  guide = functools.partial(guidance.guide, drop=(signal,), scales=(scale,))

  @jax.jit
  def run(params, noise):
    draw = scheduler.noise(ts, lambda key, shape: noise)
    return task.sample(
      params,
      {},
      noise.shape,
      jax.random.key(0),
      sampler=scheduler.sampler,
      ts=ts,
      noise=draw,
      wrappers=(guide, *scheduler.wrappers),
    )

  with jax.default_matmul_precision("highest"):
    return np.asarray(run(params, noise))


def check(record_property, row, out, wanted, other):
  """Ours is theirs, and another input is not."""
  top = np.abs(wanted).max()
  error, control = (float(np.abs(x - wanted).max() / top) for x in (out, other))
  assert error < BOUND, error
  assert control > 10 * BOUND
  parity.note(record_property, row, error=error, bound=BOUND, control=control / BOUND)


@pytest.fixture
def video():
  """(noise [B, T, h, w, 4], prompt and negative embeddings [B, L, D])."""
  return normal(0, 1, FRAMES, 8, 12, 4), normal(1, 1, 5, WIDTH), normal(2, 1, 5, WIDTH)


def prompted(pipe, noise, text, negative, **more):
  """A call of a text pipeline of diffusers that gives latents."""
  pipe.set_progress_bar_config(disable=True)
  out = pipe(
    prompt_embeds=torch_of(text),
    negative_prompt_embeds=torch_of(negative),
    latents=torch_of(rearrange(noise, "b t h w c -> b c t h w")),
    num_inference_steps=STEPS,
    guidance_scale=7.5,
    height=16,
    width=24,
    output_type="latent",
    num_frames=FRAMES,
    **more,
  ).frames
  return rearrange(out.numpy(), "b c t h w -> b t h w c")


def text_pipeline(pipe, tmp_path, video, record_property, row):
  noise, text, negative = video
  wanted = prompted(pipe, noise, text, negative)
  out = sampled(pipe, tmp_path, (told(text), told(negative)), noise, 7.5)
  other = sampled(pipe, tmp_path, (told(text), told(text)), noise, 7.5)
  check(record_property, row, out, wanted, other)


def test_animatediff_gives_the_latents_of_its_original(
  tmp_path, video, record_property
):
  unet = diffusers.UNetMotionModel(
    **SMALL,
    **blocks("Motion"),
    num_attention_heads=4,
    motion_num_attention_heads=2,
    motion_max_seq_length=8,
  )
  pipe = diffusers.AnimateDiffPipeline(
    vae=autoencoder(**VAE),
    text_encoder=None,
    tokenizer=None,
    unet=fill(unet),
    motion_adapter=None,
    scheduler=diffusers.DDIMScheduler(
      beta_schedule="linear", clip_sample=False, steps_offset=1, **BETAS
    ),
  )
  row = "AnimateDiffPipeline, 10 steps, guidance 7.5"
  text_pipeline(pipe, tmp_path, video, record_property, row)


def test_text_to_video_gives_the_latents_of_its_original(
  tmp_path, video, record_property
):
  unet = diffusers.UNet3DConditionModel(**SMALL, **blocks("3D"), attention_head_dim=8)
  pipe = modelscope.TextToVideoSDPipeline(
    vae=autoencoder(**VAE),
    text_encoder=None,
    tokenizer=None,
    unet=fill(unet),
    scheduler=diffusers.DDIMScheduler(
      beta_schedule="scaled_linear", clip_sample=False, steps_offset=1, **BETAS
    ),
  )
  row = "TextToVideoSDPipeline, 10 steps, guidance 7.5"
  text_pipeline(pipe, tmp_path, video, record_property, row)


def test_svd_gives_the_latents_of_its_original(
  tmp_path, video, record_property, monkeypatch
):
  """The image's token and latent, three numbers, guidance that rises over frames."""
  noise, image = video[0], normal(3, 1, 1, WIDTH)
  latent = normal(4, 1, 8, 12, 4)
  unet = diffusers.UNetSpatioTemporalConditionModel(
    **SMALL,
    **blocks("SpatioTemporal"),
    num_attention_heads=(4, 4),
    addition_time_embed_dim=8,
    projection_class_embeddings_input_dim=24,
  )
  decoder = diffusers.AutoencoderKLTemporalDecoder
  pipe = diffusers.StableVideoDiffusionPipeline(
    vae=autoencoder(decoder, down_block_types=("DownEncoderBlock2D",) * 2),
    image_encoder=None,
    unet=fill(unet),
    scheduler=diffusers.EulerDiscreteScheduler(
      beta_schedule="scaled_linear",
      prediction_type="v_prediction",
      timestep_type="continuous",
      timestep_spacing="leading",
      use_karras_sigmas=True,
      sigma_min=0.002,
      sigma_max=700.0,
      steps_offset=1,
      **BETAS,
    ),
    feature_extractor=None,
  )
  pipe.set_progress_bar_config(disable=True)
  both = lambda x: torch.cat([torch.zeros_like(x), x])
  picture = lambda x: rearrange(torch_of(x), "b h w c -> b c h w")
  monkeypatch.setattr(pipe, "_encode_image", lambda *_: both(torch_of(image)))
  encode = lambda *_, **__: both(picture(latent))
  monkeypatch.setattr(pipe, "_encode_vae_image", encode)
  wanted = pipe(
    image=torch.zeros(1, 3, 16, 24),
    height=16,
    width=24,
    num_frames=FRAMES,
    num_inference_steps=STEPS,
    fps=7,
    motion_bucket_id=100,
    noise_aug_strength=0.02,
    latents=torch_of(rearrange(noise, "b t h w c -> b t c h w")),
    output_type="latent",
  ).frames
  wanted = rearrange(wanted.numpy(), "b t c h w -> b t h w c")

  # The pipeline tells the network one less than the frames a second.
  numbers = dict(fps=[6.0], motion=[100.0], augmentation=[0.02])
  vectors = {k: np.array(x, np.float32) for k, x in numbers.items()}
  told_image = lambda x, z: told(x, name="image", channels={"image": z[:, None]})
  cond = told_image(image, latent).replace(vectors=vectors)
  null = told_image(0 * image, 0 * latent)
  rising = functools.partial(guidance.over_frames, start=1.0, stop=3.0)
  out = sampled(pipe, tmp_path, (cond, null), noise, rising, "image")
  fast = vectors | {"motion": np.array([200.0], np.float32)}
  told_fast = cond.replace(vectors=fast), null
  other = sampled(pipe, tmp_path, told_fast, noise, rising, "image")
  row = "StableVideoDiffusionPipeline, 10 steps"
  check(record_property, row, out, wanted, other)
