"""AnimateDiff: a frozen image model, and motion modules that move its pictures.

https://arxiv.org/abs/2307.04725. First the image model is trained (`train_images`) or
opened (`--config.pretrained`), then the motion modules alone: eps, betas linear from
0.00085 to 0.012, AdamW 1e-4, clips of 16 frames. The modules start as the identity, so
the first video is the image model's, frame by frame. `v1`, `v2` and `v3` are its
versions at full size; `digits` and `tiny` are moving digits. Domain adapter and
MotionLoRA are LoRAs, see vdm_jax/models/lora.py; SparseCtrl is models/controlled.py.

python -m vdm_jax.main --config=configs/animatediff.py:digits --workdir=runs/animatediff
python -m vdm_jax.main --config=configs/animatediff.py:tiny --workdir=runs/tiny
"""

from configs import stable_diffusion as sd
from vdm_jax import config as c
from vdm_jax.models import architectures

VERSIONS = {"v1": 1, "v2": 2, "v3": 3}


def get_config(arg="v2"):
  """`arg`: "v1", "v2", "v3" at full size, "digits" or "tiny"."""
  if arg not in (*VERSIONS, "digits", "tiny"):
    raise ValueError(
      f"animatediff.py:{arg} is unknown; there are v1, v2, v3, digits and tiny."
    )
  size = "full" if arg in VERSIONS else arg
  heads = 8 if size == "full" else 2
  cfg = sd.start(size, "animatediff.py")
  version = VERSIONS.get(arg, 2)
  sd.network(cfg, size, architectures.animatediff, version=version, num_heads=heads)
  sd.betas(cfg, size, "linear", beta_ends=(0.00085, 0.012))
  sd.text(cfg)
  small = {k: cfg.architecture[k] for k in cfg.architecture if k in sd.DIGITS}
  image = c.call(architectures.stable_diffusion, num_heads=heads, **small)
  sd.on_images(cfg, image)
  cfg.train.trainable = "temporal"
  return cfg
