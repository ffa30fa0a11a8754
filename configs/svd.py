"""Stable Video Diffusion: a clip from its first frame.

https://arxiv.org/abs/2311.15127. The first frame is told twice, as one token of CLIP's
image encoder and as its latent beside every frame (theirs is not scaled to unit
variance, ours here is); `fps`, `motion` (the bucket, 127 in
its demos: larger moves more) and `augmentation` (noise in the first frame, 0.02) are
numbers. EDM with noise up to 700, v, guidance that rises over the frames. The
published model was told fps - 1: give it 6 for 7 frames a second.

Here, at every size, the token is the class and the latent the clip's own first frame,
to which the noise is added (theirs to its pixels).

python -m vdm_jax.main --config=configs/svd.py:digits --workdir=runs/svd
python -m vdm_jax.main --config=configs/svd.py:tiny --workdir=runs/tiny
"""

from configs import stable_diffusion as sd
from vdm_jax import config as c
from vdm_jax.data import sources
from vdm_jax.diffusion import guidance, perturbation, process, times
from vdm_jax.diffusion.samplers import ddim
from vdm_jax.encoders import conditioner
from vdm_jax.models import architectures
from vdm_jax.programs import sample

NUMBERS = dict(fps=6.0, motion=127.0, augmentation=0.02)


def get_config(arg="full"):
  """`arg`: "full", "digits", or "tiny" to see every stage work in a minute."""
  cfg = sd.start(arg, "svd.py")
  small = {} if arg == "full" else dict(head_dim=4, joint_frequencies=32)
  sd.network(cfg, arg, architectures.svd, **small)
  numbers = c.call(conditioner.Numbers, names=tuple(NUMBERS), values=NUMBERS)
  picture = c.call(conditioner.Image, form="channels", first=True)
  sd.text(cfg, picture, numbers)
  sd.put(cfg.task, drop_rates=dict(text=0.1, image=0.1))  # guidance leaves both out
  sd.put(cfg.task, perturbation=c.call(perturbation.Picture))
  sd.put(
    cfg.task,
    process=c.call(process.EDM, t_max=700.0, sigma_data=1.0),
    prediction="v",
    times=c.bind(times.lognormal, mean=0.7, std=1.6),
  )
  grid = c.bind(times.karras_grid, num_steps=2 if arg == "tiny" else 25)
  sd.sampling(cfg, c.bind(ddim.ddim), grid)
  rising = c.bind(guidance.over_frames, start=1.0, stop=2.5)
  sd.guided(cfg, c.bind(guidance.guide, drop=(("text", "image"),), scales=(rising,)))
  latents = c.call(sources.Records, path="{workdir}/latents")
  for part in sd.drawn(cfg):
    count = 10 if arg == "full" else 20
    sd.put(part, signals=c.bind(sample.first_frames, source=latents, count=count))
  return cfg
