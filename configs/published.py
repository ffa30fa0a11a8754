"""Videos by a published model: all of it is in its folder, as diffusers writes it.

Latte, ModelScope's text-to-video, AnimateDiff, or Stable Diffusion 1 with a motion
adapter; Stable Video Diffusion makes them of pictures.

python -m vdm_jax.main --config=configs/published.py --workdir=runs/cat \
  --config.pretrained=stable-diffusion-v1-5 --config.prompts="a cat in the snow" \
  --config.motion=animatediff-motion-adapter-v1-5-2
python -m vdm_jax.main --config=configs/published.py --workdir=runs/dog \
  --config.pretrained=stable-video-diffusion-img2vid --config.pictures=dog.jpg
"""

from configs.parts import runs
from vdm_jax import config as c
from vdm_jax.programs import generate


def get_config():
  """The fields that `sample` reads are those to be given."""
  cfg = runs.begin("sample", seed=3407)
  names = ("pretrained", "prompts", "pictures", "motion")
  cfg.update({name: "" for name in names})
  cfg.sample = c.bind(generate.run, **{name: cfg.get_ref(name) for name in names})
  return cfg
