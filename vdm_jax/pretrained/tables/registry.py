"""All tables of published weights; a new one is one more line."""

from vdm_jax.pretrained.tables.autoencoders import kl_image, kl_temporal, kl_video
from vdm_jax.pretrained.tables.encoders import bert, clip, resampler, t5
from vdm_jax.pretrained.tables.transformers import dit, latte, latte_t2v
from vdm_jax.pretrained.tables.unet import (
  animatediff,
  controlnet,
  i2vgen,
  resampled,
  sparse_control,
  unet_diffusers,
  unet_openai,
)

TABLES = (
  latte.TABLE,
  latte_t2v.TABLE,
  dit.TABLE,
  bert.TABLE,
  t5.TABLE,
  clip.TEXT,
  clip.IMAGE,
  resampler.TABLE,
  resampled.TABLE,
  kl_image.TABLE,
  kl_temporal.TABLE,
  kl_video.TABLE,
  unet_diffusers.TABLE,
  animatediff.TABLE,
  unet_openai.TABLE,
  controlnet.TABLE,
  sparse_control.TABLE,
  i2vgen.TABLE,
)
