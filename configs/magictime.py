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
from configs import stable_diffusion as sd
from vdm_jax import config as c
from vdm_jax.data import folders
from vdm_jax.models import lora

ADAPTERS = {"adapter_s": "/spatial_(self|cross)", "adapter_t": "/temporal_self"}


def get_config(arg="full"):
  """`arg`: "full", "digits", or "tiny" to see every stage work in a minute."""
  if arg not in ("full", "digits", "tiny"):
    raise ValueError(f"magictime.py:{arg} is unknown; there are full, digits and tiny.")
  cfg = animatediff.get_config("v3" if arg == "full" else arg)
  if arg == "full":
    whole(cfg.train_clips, "magictime/train")
    whole(cfg.test_clips, "magictime/test")
    cfg.encode.source.source.times = 1  # there is one choice of frames in a video
  network, before, rank = cfg.unet, "denoiser", 16 if arg == "full" else 2
  for name, targets in ADAPTERS.items():
    network = c.call(lora.Lora, network=network, targets=targets, rank=rank)
    sd.train_after(cfg, name, network, before)
    before = name
  with cfg.ignore_type():
    cfg.network = network
  sd.put(cfg.sample, task=cfg[f"task_{before}"], weights=before)
  return cfg


def whole(clips, path):
  """Turns clips into whole videos, for all that read them."""
  del clips["frame_interval"], clips["start"]
  clips.update(call=c.call(folders.uniformly_sampled_videos)["call"], path=path)
