"""The Stable Diffusion autoencoder, trained on the frames of any folder of videos.

Nothing published is reproduced here; configs/parts/autoencoders.py has the recipe.

python -m vdm_jax.main --config=configs/autoencoders/kl_image.py \
  --config.data=videos --workdir=runs/kl_image
"""

from configs.parts import autoencoders, runs
from vdm_jax import config as c
from vdm_jax.data import folders, sources, transforms
from vdm_jax.worlds.moving_digits import builder as moving_digits


def get_config(arg="full"):
  """`arg`: "full", or "tiny": a few steps on moving digits."""
  c.check_variant("kl_image.py", arg, ("full", "tiny"))
  rules = (("batch", ("data", "fsdp")), ("conv_out", "fsdp"))
  cfg = runs.begin("autoencode", rules=rules)
  cfg.data = "videos" if arg == "full" else "{workdir}/data"
  data = cfg.get_ref("data")
  if arg == "full":
    cfg.clips = c.call(folders.videos, path=data, num_frames=4, frame_interval=3)
  else:
    digits = c.call(moving_digits.build, data_dir=data, train_clips=100, test_clips=20)
    whole = c.call(sources.Tfds, builder=digits, split="train")
    frames = c.call(transforms.SampleFrames, num_frames=4)
    cfg.clips = runs.transformed(whole, frames)
  cfg.autoencoder, cfg.task = autoencoders.with_task()
  crop = autoencoders.crop(256 if arg == "full" else 16)
  preview = runs.transformed(cfg.clips, *crop)
  cfg.autoencode = autoencoders.training(cfg.task, cfg.clips, preview, crop)
  if arg == "tiny":
    runs.change(cfg, autoencoders.TINY)
  return cfg
