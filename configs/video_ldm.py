"""AlignYourLatents: a frozen image model with layers along time, mixed in by a share.

https://arxiv.org/abs/2304.08818. First the image model is trained (`train_images`),
then the temporal layers and their shares; a share of 0 for them gives the image model
back, frame by frame. In training the first frames, or the ends, of some clips are
given, so one network predicts and interpolates.
The layers are those that its authors published with Stable Video Diffusion.

With "-upsampler" behind it, another model makes large videos of small ones: it sees the
small video beside its latents, with noise whose deviation it is told. What it is to
enlarge comes from held-out clips, or from a folder of samples (sample.made_before).

python -m vdm_jax.main --config=configs/video_ldm.py:digits --workdir=runs/video_ldm
python -m vdm_jax.main --config=configs/video_ldm.py:tiny --workdir=runs/tiny
python -m vdm_jax.main --config=configs/video_ldm.py:tiny-upsampler \
  --workdir=runs/upsampler
"""

from configs import stable_diffusion as sd
from vdm_jax import config as c
from vdm_jax.data import sources, transforms
from vdm_jax.diffusion import perturbation
from vdm_jax.encoders import conditioner
from vdm_jax.models import architectures
from vdm_jax.models.unet3d import Transformer
from vdm_jax.programs import sample


def get_config(arg="full"):
  """`arg`: "full", "digits", or "tiny" to see stages at work; or with "-upsampler"."""
  arg, upsampling, rest = arg.partition("-upsampler")
  cfg = sd.start(arg + rest, "video_ldm.py")
  head_dim = 64 if arg == "full" else 4
  sd.network(cfg, arg, architectures.video_ldm, head_dim=head_dim)
  sd.betas(cfg, arg, "scaled_linear", prediction="v")
  if upsampling:
    return upsampler(cfg, arg, head_dim)
  fps = c.call(conditioner.Numbers, names=("fps",), values=dict(fps=8.0))
  sd.text(cfg, fps)
  small = {k: cfg.architecture[k] for k in cfg.architecture if k in sd.DIGITS}
  spatial = c.call(Transformer, head_dim=head_dim)
  own = dict(spatial=spatial, vectors=("fps",), mask_channel=True)
  image = c.call(architectures.stable_diffusion, **own, **small)
  sd.on_images(cfg, image)
  sd.put(cfg.image_task, conditioner=cfg.task.conditioner)
  sd.put(cfg.task, mask_rates=dict(first=0.3, ends=0.2))
  cfg.train.trainable = "temporal"
  return cfg


def upsampler(cfg, arg, head_dim):
  """From videos of a quarter of the height and width, or of half for the small ones.

  An image upsampler (`train_images`) whose layers along time are then trained.
  """
  factor = 4 if arg == "full" else 2
  own = dict(vectors=("augmentation",), mask_channel=False)
  cfg.architecture.update(own)
  clips = cfg.encode.source
  shrunk = dict(source=clips, transforms=(c.call(transforms.Shrunk, factor=factor),))
  sd.put(cfg.encode, source=c.call(sources.Transformed, **shrunk))
  grid = tuple(cfg.sample.shape[1:3])
  told = (
    c.call(conditioner.LowResolution, grid=grid),
    c.call(
      conditioner.Numbers, names=("augmentation",), values=dict(augmentation=0.05)
    ),
  )
  sd.text(cfg, *told)
  noise = c.call(perturbation.Picture, mean=-2.0, std=1.0, signal="low")
  sd.put(cfg.task, perturbation=noise)
  small = {k: cfg.architecture[k] for k in cfg.architecture if k in sd.DIGITS}
  spatial = c.call(Transformer, head_dim=head_dim)
  image = c.call(architectures.stable_diffusion, spatial=spatial, **own, **small)
  sd.on_images(cfg, image)
  sd.put(cfg.image_task, conditioner=cfg.task.conditioner, perturbation=noise)
  cfg.train.trainable = "temporal"
  held_out = dict(source=cfg.evaluate.real, count=20, factor=factor)
  sd.put(cfg.sample, signals=c.bind(sample.low_resolution, **held_out))
  if "preview" in cfg.train:
    sd.put(cfg.train.preview, signals=cfg.sample.signals)
  return cfg
