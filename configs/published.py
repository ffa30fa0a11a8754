"""Videos by a published model: all of it is in its folder, as diffusers writes it.

Latte, ModelScope's text-to-video, AnimateDiff, or Stable Diffusion 1 with a motion
adapter; Stable Video Diffusion makes them of pictures.

python -m vdm_jax.main --config=configs/published.py --workdir=runs/cat \
  --config.pretrained=stable-diffusion-v1-5 --config.prompts="a cat in the snow" \
  --config.motion=animatediff-motion-adapter-v1-5-2
python -m vdm_jax.main --config=configs/published.py --workdir=runs/dog \
  --config.pretrained=stable-video-diffusion-img2vid --config.pictures=dog.jpg
"""

from ml_collections import ConfigDict

from configs.parts import runs
from vdm_jax import config as c
from vdm_jax.programs import generate


def get_config():
  """Fields that stand first are those to be given."""
  cfg = ConfigDict()
  cfg.pretrained = ""
  cfg.prompts = ""
  cfg.pictures = ""
  cfg.motion = ""
  cfg.seed = 3407
  cfg.mesh = runs.MESH
  cfg.rules = runs.RULES
  cfg.stages = ("sample",)
  names = ("pretrained", "prompts", "pictures", "motion")
  cfg.sample = c.bind(generate.run, **{name: cfg.get_ref(name) for name in names})
  return cfg
