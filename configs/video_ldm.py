"""AlignYourLatents: a frozen image model with layers along time, mixed in by a share.

https://arxiv.org/abs/2304.08818. First the image model is trained (`train_images`),
then the temporal layers and their shares; a share of 0 for them gives the image model
back, frame by frame. In training the first frames, or the ends, of some clips are
given, so one network predicts and interpolates.
The layers are those that its authors published with Stable Video Diffusion.

python -m vdm_jax.main --config=configs/video_ldm.py:digits --workdir=runs/video_ldm
python -m vdm_jax.main --config=configs/video_ldm.py:tiny --workdir=runs/tiny
"""

from configs import stable_diffusion as sd
from vdm_jax import config as c
from vdm_jax.encoders import conditioner
from vdm_jax.models import architectures
from vdm_jax.models.unet3d import Transformer


def get_config(arg="full"):
  """`arg`: "full", "digits", or "tiny" to see every stage work in a minute."""
  cfg = sd.start(arg, "video_ldm.py")
  head_dim = 64 if arg == "full" else 4
  sd.network(cfg, arg, architectures.video_ldm, head_dim=head_dim)
  sd.betas(cfg, arg, "scaled_linear", prediction="v")
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
