"""Stable Diffusion's U-Net, frame by frame: where the video U-Nets begin.

https://arxiv.org/abs/2112.10752. `digits` trains it on moving digits, a class standing
for its text as one word; configs/animatediff.py and configs/video_ldm.py freeze what it
learns and train layers along time. `full` has the published size, scaled-linear betas
and eps, and reads captions by CLIP; configs/parts/unets.py says which folders it wants.
`raw` is `full` without latents and embedded texts on disk: clips and captions are
encoded in the training step.

python -m vdm_jax.main --config=configs/stable_diffusion.py:digits --workdir=runs/images
python -m vdm_jax.main --config=configs/stable_diffusion.py:tiny --workdir=runs/tiny
python -m vdm_jax.main --config=configs/stable_diffusion.py --workdir=runs/sd \
  --config.data=videos --config.text_encoder=stable-diffusion-v1-5 \
  --config.pretrained=stable-diffusion-v1-5/unet \
  --config.pretrained_autoencoder=stable-diffusion-v1-5/vae
"""

from configs.parts import unets, videos
from vdm_jax import config as c
from vdm_jax.models.unet import architectures


def get_config(arg="full"):
  """`arg`: "full", "digits", or "tiny" to see every stage work in a minute; "raw"."""
  c.check_variant("stable_diffusion.py", arg, (*unets.SIZES, "raw"))
  if arg == "raw":
    cfg = get_config("full")
    videos.encode_in_step(cfg)
    return cfg
  cfg = unets.base(arg, text_width=768)
  heads = unets.SIZES[arg]["num_heads"]
  network = unets.network(arg, architectures.stable_diffusion, num_heads=heads)
  task = unets.ddpm(network, **unets.text(arg))
  unets.denoiser(cfg, arg, network, task, wrappers=(unets.guide(arg, 7.5),))
  return cfg
