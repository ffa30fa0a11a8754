"""Published pipelines of the U-Net line, whole: latents and frames, as diffusers.

diffusers' pipelines run as they are, on tiny networks with random weights; ours opens
the folder that they save.
"""

import functools

import diffusers
import jax
import numpy as np
import pytest
import torch
from einops import rearrange
from PIL import Image

import vdm_jax
from tests.parity import pipelines
from tests.parity.pipelines import FRAMES, WIDTH
from tests.support import parity_table

STEPS = 10
BOUND = 1e-3  # of a trajectory, times max|ref|


def normal(seed, *shape):
  return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def torch_of(x):
  return torch.from_numpy(np.ascontiguousarray(x))


def opened(pipe, folder):
  """(theirs, ours) of a pipeline that was saved whole."""
  pipe.set_progress_bar_config(disable=True)
  pipe.save_pretrained(folder)
  return pipe, vdm_jax.load(folder)


def drawn(ours, noise, text, negative):
  """Our latents, guided, from the same noise."""
  given = dict(embeddings=(text, None), negative_embeddings=(negative, None))
  signals = ours.encode(size=(16, 24), **given)
  with jax.default_matmul_precision("highest"):
    key = jax.random.key(0)
    return np.asarray(
      ours.sample_latents(signals, noise, key, steps=STEPS, guidance=7.5)
    )


def check(record_property, row, out, wanted, other):
  """Ours is theirs, and another input is not."""
  top = np.abs(wanted).max()
  error, control = (float(np.abs(x - wanted).max() / top) for x in (out, other))
  assert error < BOUND, error
  assert control > 10 * BOUND
  parity_table.note(
    record_property, row, error=error, bound=BOUND, control=control / BOUND
  )


@pytest.fixture
def video():
  """(noise [B, T, h, w, 4], prompt and negative embeddings [B, L, D])."""
  return normal(0, 1, FRAMES, 8, 12, 4), normal(1, 1, 5, WIDTH), normal(2, 1, 5, WIDTH)


def prompted(pipe, noise, text, negative, **more):
  """A call of a text pipeline of diffusers that gives latents."""
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


def text_pipeline(theirs, ours, video, record_property, row):
  noise, text, negative = video
  wanted = prompted(theirs, noise, text, negative)
  out, other = drawn(ours, *video), drawn(ours, noise, text, text)
  check(record_property, row, out, wanted, other)


@pytest.fixture(scope="module")
def animatediff(tmp_path_factory):
  folder = tmp_path_factory.mktemp("animatediff")
  return opened(pipelines.animatediff(folder), folder / "whole")


def test_animatediff_gives_the_latents_of_its_original(
  animatediff, video, record_property
):
  row = "AnimateDiffPipeline, 10 steps, guidance 7.5"
  text_pipeline(*animatediff, video, record_property, row)


def test_animatediff_makes_of_a_prompt_what_its_original_does(animatediff, video):
  """Letters keep their case, padding is read, frames are decoded."""
  theirs, ours = animatediff
  call = lambda prompt: ours(
    [prompt],
    negative="a bird",
    latents=video[0],
    steps=4,
    guidance=7.5,
    key=jax.random.key(0),
  )
  with jax.default_matmul_precision("highest"):
    out, other = call("the bird Birds"), call("the sea")
  wanted = theirs(
    "the bird Birds",
    negative_prompt="a bird",
    latents=torch_of(rearrange(video[0], "b t h w c -> b c t h w")),
    num_inference_steps=4,
    guidance_scale=7.5,
    height=16,
    width=24,
    num_frames=FRAMES,
    output_type="np",
  ).frames
  far = lambda x: np.abs(x.astype(float) - np.rint(255 * np.asarray(wanted))).max()
  assert far(out) <= 1 < far(other)
  usual = ours(["a"], key=jax.random.key(0), steps=1, num_frames=2)
  assert usual.shape == (1, 2, 16, 16, 3)  # the autoencoder's size
  with pytest.raises(ValueError, match="16 frames.*8"):
    ours(["a"], key=jax.random.key(0))


def test_a_motion_adapter_makes_animatediff_of_stable_diffusion(
  tmp_path, video, record_property
):
  """Two downloads: the image model, whose scheduler is not ours to open, and motion."""
  scheduler = diffusers.PNDMScheduler(beta_schedule="scaled_linear", **pipelines.BETAS)
  images = pipelines.stable_diffusion(tmp_path, scheduler)
  images.save_pretrained(tmp_path / "images")
  adapter = pipelines.motion_adapter()
  adapter.save_pretrained(tmp_path / "motion")
  theirs = pipelines.animatediff_of(images, adapter)
  with pytest.raises(ValueError, match="PNDM"):
    vdm_jax.load(tmp_path / "images")
  with pytest.raises(ValueError, match="expected a MotionAdapter"):
    vdm_jax.load(tmp_path / "images", motion=tmp_path / "images" / "vae")
  ours = vdm_jax.load(tmp_path / "images", motion=tmp_path / "motion")
  row = "AnimateDiffPipeline from two folders, 10 steps, guidance 7.5"
  text_pipeline(theirs, ours, video, record_property, row)


def test_stable_diffusion_gives_the_latents_of_its_original(
  tmp_path, video, record_property
):
  """Videos of one frame."""
  theirs, ours = opened(pipelines.stable_diffusion(), tmp_path)
  noise, text, negative = video[0][:, :1], *video[1:]
  wanted = theirs(
    prompt_embeds=torch_of(text),
    negative_prompt_embeds=torch_of(negative),
    latents=torch_of(rearrange(noise, "b 1 h w c -> b c h w")),
    num_inference_steps=STEPS,
    guidance_scale=7.5,
    height=16,
    width=24,
    output_type="latent",
  ).images
  wanted = rearrange(wanted.numpy(), "b c h w -> b 1 h w c")
  out, other = drawn(ours, noise, text, negative), drawn(ours, noise, text, text)
  row = "StableDiffusionPipeline, 10 steps, guidance 7.5"
  check(record_property, row, out, wanted, other)
  assert ours.num_frames == 1


def test_text_to_video_gives_the_latents_of_its_original(
  tmp_path, video, record_property
):
  row = "TextToVideoSDPipeline, 10 steps, guidance 7.5"
  text_pipeline(
    *opened(pipelines.text_to_video(), tmp_path), video, record_property, row
  )


@pytest.fixture(scope="module")
def svd(tmp_path_factory):
  return opened(pipelines.svd(), tmp_path_factory.mktemp("svd"))


# Higher and wider than what CLIP sees, and smaller.
@pytest.mark.parametrize("size", [(300, 500), (40, 31)])
def test_svd_makes_of_a_picture_what_its_original_does(
  svd, video, record_property, monkeypatch, size
):
  """CLIP's token, the latent of the noised picture, three numbers, rising guidance."""
  theirs, ours = svd
  picture = np.random.default_rng(5).integers(0, 256, (*size, 3), np.uint8)
  picture[: size[0] // 2] //= 3  # not noise alone
  grain = normal(6, 1, 16, 24, 3)
  module = "diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion"
  drawn = torch_of(rearrange(grain, "b h w c -> b c h w"))
  monkeypatch.setattr(f"{module}.randn_tensor", lambda *_, **__: drawn)
  numbers = dict(fps=7, num_frames=FRAMES)
  call = functools.partial(
    theirs,
    image=Image.fromarray(picture),
    height=16,
    width=24,
    num_inference_steps=STEPS,
    motion_bucket_id=100,
    noise_aug_strength=0.02,
    latents=torch_of(rearrange(video[0], "b t h w c -> b t c h w")),
    **numbers,
  )
  wanted = rearrange(
    call(output_type="latent").frames.numpy(), "b t c h w -> b t h w c"
  )

  def latents(motion):
    key, given = jax.random.key(0), dict(motion=motion, noise=grain)
    signals = ours.encode([picture], size=(16, 24), **given)
    with jax.default_matmul_precision("highest"):
      return np.asarray(
        ours.sample_latents(signals, video[0], key, steps=STEPS, guidance=(1.0, 3.0))
      )

  row = f"StableVideoDiffusionPipeline, 10 steps, a picture of {size[0]} x {size[1]}"
  check(record_property, row, latents(100), wanted, latents(200))
  if size[0] < 100:
    return

  def frames(chunk):
    settings = dict(steps=STEPS, motion=100, height=16, width=24, decode_chunk=chunk)
    with jax.default_matmul_precision("highest"):
      given = dict(latents=video[0], noise=grain)
      return ours([picture], key=jax.random.key(0), **settings, **given).astype(float)

  whole, parts = frames(None), frames(2)
  assert whole.shape == (1, FRAMES, 16, 24, 3)
  for made, chunk in (whole, FRAMES), (parts, 2):
    wanted = call(output_type="np", decode_chunk_size=chunk).frames
    assert np.abs(made - np.rint(255 * np.asarray(wanted))).max() <= 1
  assert np.abs(whole - parts).max() > 1
