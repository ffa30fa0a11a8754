"""All tables of published weights; a new one is one more line. See state_dict.py."""

from vdm_jax.pretrained.tables.autoencoders import kl_image, kl_temporal, kl_video
from vdm_jax.pretrained.tables.encoders import (
  bert,
  clip_image,
  clip_text,
  resampler,
  t5,
)
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
  latte,
  latte_t2v,
  dit,
  bert,
  t5,
  clip_text,
  clip_image,
  resampler,
  resampled,
  kl_image,
  kl_temporal,
  kl_video,
  unet_diffusers,
  animatediff,
  unet_openai,
  controlnet,
  sparse_control,
  i2vgen,
)
