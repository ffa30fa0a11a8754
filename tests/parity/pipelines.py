"""Small pipelines of diffusers with weights by the rule, for tests and record.py."""

import diffusers
import transformers
from diffusers.pipelines.deprecated.text_to_video_synthesis import (
  pipeline_text_to_video_synth as modelscope,
)
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from tests.parity import originals
from tests.support import tokenizer_files
from tests.support.published import rows_networks

SEED, FRAMES, WIDTH = 5, 3, 12
BETAS = dict(beta_start=0.00085, beta_end=0.012)
LINEAR = dict(beta_schedule="linear", beta_start=1e-4, beta_end=0.02)
# A published pipeline of transformers has one of these.
SCHEDULERS = (
  diffusers.DDIMScheduler(clip_sample=False, **LINEAR),
  diffusers.DPMSolverMultistepScheduler(**LINEAR),
  diffusers.EulerDiscreteScheduler(timestep_spacing="trailing", **LINEAR),
  diffusers.UniPCMultistepScheduler(use_karras_sigmas=True, **LINEAR),
  diffusers.DDIMScheduler(
    clip_sample=False, timestep_spacing="trailing", set_alpha_to_one=False, **LINEAR
  ),
)
# DiT's own pipeline steps from the input that Euler's scheduler scaled: another, then.
OF_PICTURES = list(SCHEDULERS)
OF_PICTURES[2] = diffusers.DPMSolverMultistepScheduler(
  solver_order=3, use_karras_sigmas=True, **LINEAR
)
DDIM = dict(clip_sample=False, steps_offset=1, **BETAS)
# With one channel in each of the 32 groups, norms would hide all that time adds.
SMALL = dict(block_out_channels=(64, 64), layers_per_block=1)
MOTION = dict(motion_num_attention_heads=2, motion_max_seq_length=8)
ENCODER = dict(down_block_types=("DownEncoderBlock2D",) * 2)
IMAGES = dict(norm_num_groups=8, **ENCODER, up_block_types=("UpDecoderBlock2D",) * 2)
TWO_LAYERS = dict(intermediate_size=24, num_hidden_layers=2, num_attention_heads=2)
PROMPTS = ("a dog in the snow", "two cats")


def fill(module):
  """Random weights, none of them zero."""
  return originals.filled(module, SEED)


def autoencoder(kind=diffusers.AutoencoderKL, **more):
  """Of 2 x 2 pixels to a latent, and its default sample of 16 x 16."""
  # The temporal decoder has groups of 32 channels built in.
  return fill(
    kind(
      block_out_channels=(32, 32),
      layers_per_block=1,
      latent_channels=4,
      sample_size=16,
      scaling_factor=0.31,
      **more,
    )
  )


def blocks(end):
  """Two levels, the first with attention."""
  down, up = ("CrossAttnDownBlock", "DownBlock"), ("UpBlock", "CrossAttnUpBlock")
  return dict(
    down_block_types=tuple(name + end for name in down),
    up_block_types=tuple(name + end for name in up),
    cross_attention_dim=WIDTH,
  )


def clip_text_parts(folder):
  """A tokenizer and a text encoder of Stable Diffusion's classes."""
  (folder / "words").mkdir(parents=True)
  tokenizer_files.write_clip(folder / "words")
  tokenizer = transformers.CLIPTokenizer.from_pretrained(folder / "words")
  config = transformers.CLIPTextConfig(
    vocab_size=len(tokenizer),
    hidden_size=WIDTH,
    **TWO_LAYERS,
    max_position_embeddings=77,
    bos_token_id=tokenizer.bos_token_id,
    eos_token_id=tokenizer.eos_token_id,
  )
  encoder = fill(transformers.CLIPTextModel(config))
  return dict(tokenizer=tokenizer, text_encoder=encoder)


def clip_image_parts():
  """An image encoder of CLIP's class, and what prepares its pixels."""
  config = transformers.CLIPVisionConfig(
    hidden_size=16,
    **TWO_LAYERS,
    image_size=224,
    patch_size=56,
    projection_dim=WIDTH,
  )
  return dict(
    image_encoder=fill(transformers.CLIPVisionModelWithProjection(config)),
    feature_extractor=transformers.CLIPImageProcessor(),
  )


def t5_text_parts():
  """A tokenizer of T5's kind, pad 0 and end of text 1, and its encoder."""
  made = Tokenizer(models.Unigram())
  made.pre_tokenizer = pre_tokenizers.Metaspace()
  trainer = trainers.UnigramTrainer(
    vocab_size=60, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>"
  )
  made.train_from_iterator(PROMPTS * 20, trainer)
  tokenizer = transformers.T5TokenizerFast(tokenizer_object=made, extra_ids=0)
  config = transformers.T5Config(
    vocab_size=len(tokenizer),
    d_model=WIDTH,
    d_kv=4,
    d_ff=16,
    num_layers=2,
    num_heads=2,
    feed_forward_proj="gated-gelu",
  )
  encoder = fill(transformers.T5EncoderModel(config))
  return dict(tokenizer=tokenizer, text_encoder=encoder)


# What all transformers here share, drawn or not.
FIXED = dict(in_channels=4, out_channels=8, sample_size=8, patch_size=2)
PLAIN = dict(
  num_attention_heads=2,
  attention_head_dim=8,
  activation_fn="gelu-approximate",
  norm_elementwise_affine=False,
)


def latte(rng=None, scheduler=SCHEDULERS[0], **changes):
  """Latte-1's folder: text, transformer of one pair of blocks, autoencoder, DDIM.

  Args:
    rng: draws the fields of its network.
    scheduler: another one.
    changes: fields of the network.
  """
  fields = PLAIN | dict(
    num_layers=1,
    cross_attention_dim=16,
    attention_bias=True,
    norm_type="ada_norm_single",
    norm_eps=1e-6,
  )
  fields = rows_networks.draw_latte(rng) if rng else fields
  fields |= FIXED | dict(caption_channels=WIDTH, video_length=FRAMES) | changes
  return diffusers.LattePipeline(
    **t5_text_parts(),
    vae=autoencoder(**IMAGES),
    transformer=fill(diffusers.LatteTransformer3DModel(**fields)),
    scheduler=scheduler,
  )


def dit(rng=None, scheduler=SCHEDULERS[1], **changes):
  """DiT's folder; its pipeline's "no class" is the id 1000."""
  fields = rows_networks.draw_dit(rng) if rng else PLAIN | dict(num_layers=2)
  fields |= FIXED | dict(num_embeds_ada_norm=1000) | changes
  return diffusers.DiTPipeline(
    transformer=fill(diffusers.DiTTransformer2DModel(**fields)),
    vae=autoencoder(**IMAGES),
    scheduler=scheduler,
  )


def stable_diffusion(folder=None, scheduler=None):
  """Stable Diffusion's, with text parts if there is a folder to write their files."""
  unet = diffusers.UNet2DConditionModel(**SMALL, **blocks("2D"), attention_head_dim=4)
  texts = clip_text_parts(folder) if folder else dict(tokenizer=None, text_encoder=None)
  return diffusers.StableDiffusionPipeline(
    vae=autoencoder(**IMAGES),
    **texts,
    unet=fill(unet),
    scheduler=scheduler
    or diffusers.DDIMScheduler(beta_schedule="scaled_linear", **DDIM),
    safety_checker=None,
    feature_extractor=None,
    requires_safety_checker=False,
  )


def motion_adapter():
  return fill(
    diffusers.MotionAdapter(
      block_out_channels=SMALL["block_out_channels"],
      motion_layers_per_block=1,
      motion_norm_num_groups=32,
      **MOTION,
    )
  )


def animatediff_of(images, adapter):
  """AnimateDiff around the parts of a Stable Diffusion pipeline."""
  return diffusers.AnimateDiffPipeline(
    vae=images.vae,
    tokenizer=images.tokenizer,
    text_encoder=images.text_encoder,
    unet=images.unet,
    motion_adapter=adapter,
    scheduler=diffusers.DDIMScheduler(
      beta_schedule="linear", timestep_spacing="linspace", **DDIM
    ),
  )


def animatediff(folder):
  """AnimateDiff's in one folder."""
  unet = diffusers.UNetMotionModel(
    **SMALL, **blocks("Motion"), num_attention_heads=4, **MOTION
  )
  return diffusers.AnimateDiffPipeline(
    vae=autoencoder(**IMAGES),
    **clip_text_parts(folder),
    unet=fill(unet),
    motion_adapter=None,
    scheduler=diffusers.DDIMScheduler(beta_schedule="linear", **DDIM),
  )


def text_to_video():
  """ModelScope's, without its text encoder."""
  unet = diffusers.UNet3DConditionModel(**SMALL, **blocks("3D"), attention_head_dim=8)
  return modelscope.TextToVideoSDPipeline(
    vae=autoencoder(**IMAGES),
    text_encoder=None,
    tokenizer=None,
    unet=fill(unet),
    scheduler=diffusers.DDIMScheduler(beta_schedule="scaled_linear", **DDIM),
  )


def svd():
  """Stable Video Diffusion's."""
  unet = diffusers.UNetSpatioTemporalConditionModel(
    **SMALL,
    **blocks("SpatioTemporal"),
    num_attention_heads=(4, 4),
    num_frames=FRAMES,
    addition_time_embed_dim=8,
    projection_class_embeddings_input_dim=24,
  )
  return diffusers.StableVideoDiffusionPipeline(
    vae=autoencoder(diffusers.AutoencoderKLTemporalDecoder, **ENCODER),
    **clip_image_parts(),
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
  )


def i2vgen(folder):
  """I2VGen-XL's, with its scheduler: v, of betas that end in noise alone."""
  # It takes no account of num_attention_heads: heads are 64 wide.
  unet = diffusers.I2VGenXLUNet(
    **SMALL, **blocks("3D"), num_attention_heads=8, in_channels=4
  )
  return diffusers.I2VGenXLPipeline(
    vae=autoencoder(**IMAGES),
    **clip_text_parts(folder),
    **clip_image_parts(),
    unet=fill(unet),
    scheduler=diffusers.DDIMScheduler(
      beta_schedule="squaredcos_cap_v2",
      prediction_type="v_prediction",
      rescale_betas_zero_snr=True,
      set_alpha_to_one=False,
      **DDIM,
    ),
  )
