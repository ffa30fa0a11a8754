"""All tables of published weights; a new one is one more line. See state_dict.py."""

from vdm_jax.pretrained import (
  animatediff,
  bert,
  clip_image,
  clip_text,
  controlnet,
  dit,
  kl_image,
  kl_temporal,
  kl_video,
  latte,
  latte_t2v,
  resampler,
  sparse_control,
  t5,
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
  kl_image,
  kl_temporal,
  kl_video,
  unet_diffusers,
  animatediff,
  unet_openai,
  controlnet,
  sparse_control,
)
