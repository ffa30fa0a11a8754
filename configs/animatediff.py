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

At full size, on captioned clips as configs/parts/unets.py says, stage by stage
(--mode=embed, encode, train, sample), around Stable Diffusion:

python -m vdm_jax.main --config=configs/animatediff.py --workdir=runs/motion \
  --mode=train --config.text_encoder=stable-diffusion-v1-5 \
  --config.pretrained=stable-diffusion-v1-5/unet \
  --config.pretrained_autoencoder=stable-diffusion-v1-5/vae
"""

from configs.parts import runs, unets
from vdm_jax import config as c
from vdm_jax.models import lora
from vdm_jax.models.unet import architectures

VERSIONS = {"v1": 1, "v2": 2, "v3": 3, "digits": 2, "tiny": 2}
LORAS = ("/spatial_(self|cross)", "/temporal_self")  # the attentions of two LoRAs


def get_config(arg="v2"):
  """`arg`: "v1", "v2", "v3" at full size, "digits" or "tiny"; also with "-stages"."""
  variants = (*VERSIONS, *(f"{name}-stages" for name in VERSIONS))
  c.check_variant("animatediff.py", arg, variants)
  name, stages, _ = arg.partition("-stages")
  size = "full" if name.startswith("v") else name
  return with_stages(size, VERSIONS[name]) if stages else base(size, VERSIONS[name])


def base(size, version, adapter=None, **data):
  """The image model, then the motion modules, beside a LoRA of fields `adapter`."""
  cfg = unets.base(size, text_width=768, **data)
  heads = unets.SIZES[size]["num_heads"]
  fields = dict(version=version, num_heads=heads)
  network = unets.network(size, architectures.animatediff, **fields)
  trained = c.call(lora.Lora, network=network, **adapter) if adapter else network
  betas = dict(schedule="linear", beta_ends=(0.00085, 0.012))
  task = unets.ddpm(trained, **betas, **unets.text(size))
  unets.denoiser(cfg, size, network, task, wrappers=(unets.guide(size, 7.5),))
  unets.train_images_first(cfg, size, architectures.stable_diffusion, num_heads=heads)
  return cfg


def with_stages(size, version):
  """A domain adapter before motion is trained, and a MotionLoRA after it."""
  ranks = (128, 64) if size == "full" else (2, 2)
  domain, motion = (dict(targets=LORAS[i], rank=rank) for i, rank in enumerate(ranks))
  cfg = base(size, version, adapter=domain)
  image = c.call(lora.Lora, network=cfg.image_network, **domain)
  begin = unets.after("images", prefix="base")
  frames = unets.single_frames(cfg.train.loader)
  unets.train_lora(cfg, "domain", image, begin, before="train", loader=frames)
  adapter = unets.after("domain", **unets.LORA)
  cfg.train = c.replace(cfg.train, init_from=adapter)
  both = c.call(lora.Lora, network=cfg.task.network, **motion)
  begin = unets.after("denoiser", **unets.LORA, prefix="base")
  unets.train_lora(cfg, "motion_lora", both, begin)
  # The domain is that of the training clips: it is left out when sampling.
  left_out = c.replace(cfg.task.network, scale=0.0)
  task = c.replace(cfg.task, network=c.replace(both, network=left_out))
  runs.change_generator(cfg, task=task, weights="motion_lora")
  return cfg
