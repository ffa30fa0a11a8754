"""LVDM: a video U-Net on latents of three dimensions, for clips and what follows them.

https://arxiv.org/abs/2211.13221. Its autoencoder, trained against a discriminator that
sees motion, makes 4 x 32 x 32 latents of 16 x 256 x 256 pixels (`digits` has one of
single frames). `short` makes clips; `text` is its text to video, on Stable Diffusion's
latents of 16 frames. All others are told which frames of latents are given: the first,
to predict the next, or both ends, to fill in. These are shown with noise of a level
that the network is told (perturbation.py). The loss counts frames to generate; the
original's counts given ones too. `lengthen` follows each clip by three more, guided by
what is given (1.1); interpolation stands in experiments/long_digits. Betas linear in
their root from 0.0015 to 0.0155, eps, L1 loss.

python -m vdm_jax.main --config=configs/lvdm.py:digits --workdir=runs/lvdm
python -m vdm_jax.main --config=configs/lvdm.py:tiny --workdir=runs/tiny
"""

from configs import stable_diffusion as sd
from vdm_jax import config as c
from vdm_jax.autoencoders import discriminator, kl_video
from vdm_jax.diffusion import guidance, long_video, loss, perturbation
from vdm_jax.encoders import conditioner
from vdm_jax.models import architectures
from vdm_jax.programs import chain


def get_config(arg="short"):
  """`arg`: "short", "long" and "text" at full size, "digits" or "tiny"."""
  if arg not in ("short", "long", "text", "digits", "tiny"):
    raise ValueError(
      f"lvdm.py:{arg} is unknown; there are short, long, text, digits and tiny."
    )
  size = "full" if arg in ("short", "long", "text") else arg
  cfg = sd.start(size, "lvdm.py")
  if arg == "text":
    sd.network(cfg, size, architectures.lvdm_text)
    sd.betas(cfg, size, "scaled_linear", beta_ends=(0.0015, 0.0155))
    sd.text(cfg, scale=15.0)
    return cfg
  if arg != "digits":
    autoencoder(cfg, size)
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


def autoencoder(cfg, size):
  """One of whole clips in the place of that of frames."""
  small = dict(stride=(2, 4, 4), width=8, groups=4, latent_channels=8)
  cfg.autoencoder = c.call(kl_video.KLVideo, **(small if size == "tiny" else {}))
  task = cfg.autoencode.task
  sd.put(task, autoencoder=cfg.autoencoder, frames_per_clip=None)
  if size == "full":
    sd.put(task, discriminator=c.call(discriminator.PatchDiscriminator, time=3))
  for part in (cfg.encode, cfg.evaluate, *sd.drawn(cfg)):
    sd.put(part, autoencoder=cfg.autoencoder)
  _, *sides, channels = cfg.sample.shape
  for part in sd.drawn(cfg):
    sd.put(part, shape=(4, *sides, channels))


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
