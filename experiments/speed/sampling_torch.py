"""A guided sample of text-to-video Latte by diffusers' pipeline, not decoded."""

import diffusers
import torch
from einops import rearrange

from experiments.speed import inputs
from experiments.speed.timing import Contender

BETAS = dict(beta_schedule="linear", beta_start=1e-4, beta_end=0.02)


def sample(settings, names, folder):
  """({name: Contender} of one video's latents, None); the pipeline lies in `folder`."""
  pipeline = make(settings)
  pipeline.set_progress_bar_config(disable=True)
  pipeline.save_pretrained(folder)
  noise = rearrange(
    torch.from_numpy(inputs.latents(settings)), "b t h w c -> b c t h w"
  )
  text, negative = (torch.from_numpy(x) for x in inputs.texts(settings))

  def run():
    return pipeline(
      prompt_embeds=text,
      negative_prompt=None,
      negative_prompt_embeds=negative,
      latents=noise.clone(),
      num_inference_steps=settings["steps"],
      guidance_scale=settings["guidance"],
      video_length=settings["frames"],
      height=settings["size"],
      width=settings["size"],
      output_type="latent",
      mask_feature=False,
    ).frames

  return {k: Contender(run, _as_ours) for k in names if k == "torch"}, folder


def make(settings):
  """The pipeline, with an autoencoder that only tells it a latent's pixels."""
  width, heads = settings["width"], settings["num_heads"]
  torch.manual_seed(0)
  network = diffusers.LatteTransformer3DModel(
    num_attention_heads=heads,
    attention_head_dim=width // heads,
    in_channels=inputs.CHANNELS,
    out_channels=2 * inputs.CHANNELS,
    num_layers=settings["depth"] // 2,
    cross_attention_dim=width,
    attention_bias=True,
    sample_size=settings["size"] // 8,
    patch_size=inputs.PATCH,
    activation_fn="gelu-approximate",
    norm_type="ada_norm_single",
    norm_elementwise_affine=False,
    norm_eps=1e-6,
    caption_channels=settings["text_width"],
    video_length=settings["frames"],
  )
  autoencoder = diffusers.AutoencoderKL(
    block_out_channels=(8,) * 4,
    down_block_types=("DownEncoderBlock2D",) * 4,
    up_block_types=("UpDecoderBlock2D",) * 4,
    norm_num_groups=8,
    latent_channels=inputs.CHANNELS,
  )
  return diffusers.LattePipeline(
    tokenizer=None,
    text_encoder=None,
    vae=autoencoder,
    transformer=network.eval(),
    scheduler=diffusers.DDIMScheduler(clip_sample=False, **BETAS),
  )


def _as_ours(x):
  return rearrange(x.numpy(), "b c t h w -> b t h w c")
