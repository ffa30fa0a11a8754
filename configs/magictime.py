"""MagicTime: time-lapse videos, by LoRAs on AnimateDiff.

https://arxiv.org/abs/2404.05014. In a row: the image model, motion modules
(configs/animatediff.py, version 3), then MagicAdapter-S in the spatial attentions
(`train_adapter_s`), then MagicAdapter-T in those along time (`train_adapter_t`), all
else frozen. `full` reads captioned videos in `magictime/train`, and takes frames from
all of each, both ends among them (data/frame_sampling.py); the others read moving
digits, whole already. Of the published LoRAs MagicAdapter-S counts four times, see
pretrained/lora/names.py; the text encoder's is opened there too.

python -m vdm_jax.main --config=configs/magictime.py:digits --workdir=runs/magictime
python -m vdm_jax.main --config=configs/magictime.py:tiny --workdir=runs/tiny
"""

from configs import animatediff
from configs.parts import runs, unets
from vdm_jax import config as c
from vdm_jax.data import folders
from vdm_jax.models import lora


def get_config(arg="full"):
  """`arg`: "full", "digits", or "tiny" to see every stage work in a minute."""
  c.check_variant("magictime.py", arg, unets.SIZES)
  if arg == "full":
    # There is one choice of frames in a video.
    whole = dict(read=folders.uniformly_sampled_videos, windows=1)
    cfg = animatediff.base(arg, version=3, data="magictime", **whole)
  else:
    cfg = animatediff.base(arg, version=2)
  network, folder, rank = cfg.network, "denoiser", 16 if arg == "full" else 2
  for name, targets in zip(("adapter_s", "adapter_t"), animatediff.LORAS, strict=True):
    network = c.call(lora.Lora, network=network, targets=targets, rank=rank)
    begin = unets.after(folder, **unets.LORA, prefix="base")
    unets.train_lora(cfg, name, network, begin)
    folder = name
  runs.change_generator(cfg, task=cfg[f"task_{folder}"], weights=folder)
  return cfg
