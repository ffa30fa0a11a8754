"""AnimateDiff: a frozen image model, and motion modules that move its pictures.

https://arxiv.org/abs/2307.04725. First the image model is trained (`train_images`), or
a published one is named; then the motion modules alone: eps, betas linear from 0.00085
to 0.012, AdamW 1e-4, clips of 16 frames. The modules start as the identity, so
the first video is the image model's, frame by frame. `v1`, `v2` and `v3` are its
versions at full size; `digits` and `tiny` are moving digits. With "-stages" behind it
a domain adapter learns single frames of the clips first, a LoRA that is in place while
motion is trained and gone when it samples, and a MotionLoRA comes last. SparseCtrl is
models/controlled.py.

python -m vdm_jax.main --config=configs/animatediff.py:digits --workdir=runs/animatediff
python -m vdm_jax.main --config=configs/animatediff.py:tiny --workdir=runs/tiny
python -m vdm_jax.main --config=configs/animatediff.py:tiny-stages --workdir=runs/tiny

At full size, on captioned clips as configs/stable_diffusion.py says, stage by stage
(--mode=embed, encode, train, sample), around Stable Diffusion:

python -m vdm_jax.main --config=configs/animatediff.py --workdir=runs/motion \
  --mode=train --config.text_encoder=stable-diffusion-v1-5 \
  --config.pretrained=stable-diffusion-v1-5/unet \
  --config.pretrained_autoencoder=stable-diffusion-v1-5/vae
"""

from configs import stable_diffusion as sd
from vdm_jax import config as c
from vdm_jax.models import lora
from vdm_jax.models.unet import architectures
from vdm_jax.tasks import latent_diffusion
from vdm_jax.training import inflate

VERSIONS = {"v1": 1, "v2": 2, "v3": 3}


def get_config(arg="v2"):
  """`arg`: "v1", "v2", "v3" at full size, "digits" or "tiny"; also with "-stages"."""
  arg, staged, rest = arg.partition("-stages")
  if arg not in (*VERSIONS, "digits", "tiny") or rest:
    raise ValueError(
      f"animatediff.py:{arg}{staged}{rest} is unknown; there are v1, v2, v3, digits "
      "and tiny, these also with -stages."
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
  if staged:
    stages(cfg, *((128, 64) if size == "full" else (2, 2)))
  return cfg


def stages(cfg, domain_rank, motion_rank):
  """A domain adapter before motion is trained, and a MotionLoRA after it."""
  domain = dict(targets="/spatial_(self|cross)", rank=domain_rank)
  adapter = c.call(lora.Lora, network=cfg.image_unet, **domain)
  single = dict(loader=sd.stills(cfg.train.loader))
  sd.train_after(cfg, "domain", adapter, "images", parts=("ema",), **single)
  order = [stage for stage in cfg.stages if stage != "train_domain"]
  order.insert(order.index("train"), "train_domain")
  cfg.stages = tuple(order)
  places = dict(folder="{workdir}/domain/checkpoints", parts=("frozen", "ema"))
  sd.put(cfg.train, init_from=c.bind(inflate.inflate, **places))
  adapted = c.call(lora.Lora, network=cfg.unet, **domain)
  sd.put(cfg.task, network=adapted)
  motion = dict(targets="/temporal_self", rank=motion_rank)
  both = c.call(lora.Lora, network=adapted, **motion)
  sd.train_after(cfg, "motion_lora", both, "denoiser")
  # The domain is that of the training clips: it is left out when sampling.
  alone = c.call(lora.Lora, network=cfg.unet, scale=0.0, **domain)
  fields = {k: cfg.task[k] for k in cfg.task if k not in c.VERBS}
  network = c.call(lora.Lora, network=alone, **motion)
  task = c.call(latent_diffusion.LatentDiffusion, **fields | dict(network=network))
  sd.put(cfg.sample, task=task, weights="motion_lora")
