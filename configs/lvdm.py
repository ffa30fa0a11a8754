"""LVDM: a video U-Net without a text, for clips and for what follows them.

https://arxiv.org/abs/2211.13221. `short` makes clips. All others are told which frames
are given: the first, to predict the next, or both ends, to fill in. These are shown
with noise of a level that the network is told (perturbation.py). The loss counts frames
to generate; the original's counts given ones too. `lengthen` follows each clip by three
more, guided by what is given (1.1); interpolation stands in experiments/long_digits.
Betas linear in their root from 0.0015 to 0.0155, eps, L1 loss.

python -m vdm_jax.main --config=configs/lvdm.py:digits --workdir=runs/lvdm
python -m vdm_jax.main --config=configs/lvdm.py:tiny --workdir=runs/tiny
"""

from configs import stable_diffusion as sd
from vdm_jax import config as c
from vdm_jax.diffusion import guidance, long_video, loss, perturbation
from vdm_jax.encoders import conditioner
from vdm_jax.models import architectures
from vdm_jax.programs import chain


def get_config(arg="short"):
  """`arg`: "short" and "long" at full size, "digits" or "tiny"."""
  if arg not in ("short", "long", "digits", "tiny"):
    raise ValueError(
      f"lvdm.py:{arg} is unknown; there are short, long, digits and tiny."
    )
  size = "full" if arg in ("short", "long") else arg
  cfg = sd.start(size, "lvdm.py")
  heads = {} if size == "full" else dict(num_heads=2, max_frames=8)
  long = arg != "short"
  sd.network(
    cfg, size, architectures.lvdm_long if long else architectures.lvdm, **heads
  )
  sd.betas(cfg, size, "scaled_linear", beta_ends=(0.0015, 0.0155))
  sd.put(cfg.task, conditioner=c.call(conditioner.Unconditional), drop_rates={})
  sd.put(cfg.task, measure=c.bind(loss.absolute))
  if long:
    rates = dict(first=0.5, ends=0.4)
    sd.put(cfg.task, mask_rates=rates, perturbation=c.call(perturbation.GivenFrames))
  sd.guided(cfg)
  if long:
    lengthen(cfg)
  return cfg


def lengthen(cfg):
  """Windows that each follow from the last frame of the one before."""
  frames, *size = cfg.sample.shape
  rolled = c.bind(
    long_video.rollout,
    sampler=cfg.sampler,
    plan=c.bind(long_video.extend, window=frames, overlap=1),
    hold=c.bind(guidance.by_given_frames, process=cfg.task.process, scale=1.1),
  )
  once = c.call(chain.Pass, num_frames=4 * (frames - 1) + 1, sampler=rolled, ts=cfg.ts)
  names = ("task", "weights", "autoencoder", "autoencoder_weights", "signals", "fps")
  same = {name: cfg.sample[name] for name in (*names, "scale", "batch_size")}
  cfg.lengthen = c.bind(chain.run, passes=(once,), size=tuple(size), **same)
  cfg.stages = (*cfg.stages, "lengthen")
