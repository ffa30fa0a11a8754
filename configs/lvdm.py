"""LVDM: a video U-Net on latents of three dimensions, for clips and what follows them.

https://arxiv.org/abs/2211.13221. Its autoencoder, trained against a discriminator that
sees motion, makes 4 x 32 x 32 latents of 16 x 256 x 256 pixels (`digits` has one of
single frames). `short` makes clips; `text` is its text to video, on Stable Diffusion's
latents of 16 frames and on captions (configs/parts/unets.py says how). All others
make long videos with two networks, section 3.3: one is given the first of four latents
that lie four apart, or none, and predicts; one is given both ends of five neighbours
and interpolates. Given latents are noised, to a level that is a condition too
(perturbation.py). The loss counts frames to generate; the original's counts given ones
too. `lengthen` predicts 7 latents, window
after window, guided by what is given (1.1), and fills all 6 gaps (the original's script
fills a third of them): 25 latents, 100 frames. Betas linear in their root from 0.0015
to 0.0155, eps, L1 loss.

python -m vdm_jax.main --config=configs/lvdm.py:digits --workdir=runs/lvdm
python -m vdm_jax.main --config=configs/lvdm.py:tiny --workdir=runs/tiny
"""

from configs.parts import autoencoders, runs, unets
from vdm_jax import config as c
from vdm_jax.autoencoders import kl_video
from vdm_jax.conditioners import conditioner
from vdm_jax.data import transforms
from vdm_jax.diffusion import guidance, long_video, loss, perturbation
from vdm_jax.models.unet import architectures
from vdm_jax.programs import chain, sample

AUTOENCODER = dict(module=kl_video.KLVideo, time=3, frames_per_clip=None)
BETAS = dict(beta_ends=(0.0015, 0.0155))
# Latents that prediction takes; latents from one of them to the next.
SIZES = {
  "full": dict(window=4, stride=4),
  "digits": dict(window=4, stride=4),
  "tiny": dict(window=2, stride=2),
}


def get_config(arg="short"):
  """`arg`: "short", "long" and "text" at full size, "digits" or "tiny"."""
  c.check_variant("lvdm.py", arg, ("short", "long", "text", "digits", "tiny"))
  if arg not in ("short", "text"):
    return long("full" if arg == "long" else arg)
  if arg == "text":
    cfg = unets.base("full", text_width=768)
    network = unets.network("full", architectures.lvdm_text)
    trained = unets.ddpm(network, **BETAS, **unets.text("full"))
    drawn = dict(wrappers=(unets.guide("full", 15.0),))
  else:
    cfg = unets.base("full", autoencoder=autoencoders.with_task(**AUTOENCODER))
    window = SIZES["full"]["window"]
    network = unets.network("full", architectures.lvdm, max_frames=window)
    trained, drawn = task(network), dict(wrappers=(), shape=(window, 32, 32, 4))
  unets.denoiser(cfg, "full", network, trained, **drawn)
  return cfg


def task(network, **fields):
  """L1 to eps, unconditional."""
  condition = dict(conditioner=c.call(conditioner.Unconditional), drop_rates={})
  error_fn = c.bind(loss.absolute)
  return unets.ddpm(network, **BETAS, **condition, error_fn=error_fn, **fields)


def long(size):
  """Trains two networks, and makes videos with them in the place of samples."""
  window, stride = SIZES[size]["window"], SIZES[size]["stride"]
  keys = 2 * window - 1  # that prediction makes: two windows that share one
  latents = (keys - 1) * stride + 1
  cfg = data(size, latents)
  heads = {} if size == "full" else dict(num_heads=2)
  network, filler = (
    unets.network(size, architectures.lvdm_long, max_frames=frames, **heads)
    for frames in (window, stride + 1)
  )
  cfg.filler = filler
  noise = dict(perturbation=c.call(perturbation.KnownFrameNoise))
  predicting = task(network, mask_rates=dict(first=0.5), **noise)
  cfg.filling = c.replace(predicting, network=filler, mask_rates=dict(ends=0.9))
  grid = (32, 32, 4) if size == "full" else (4, 4, 8)
  settings = dict(shape=(latents, *grid), wrappers=())
  if size != "full":
    settings["preview"] = False  # it would be of neighbours
  unets.denoiser(cfg, size, network, predicting, **settings)
  windows = lambda **cut: runs.transform_first(
    cfg.train.loader, c.call(transforms.RandomFrameRate, fps=1.0, **cut)
  )
  between = windows(num_frames=stride + 1, intervals=(1,))
  unets.train_also(cfg, "filler", task=cfg.filling, loader=between, init_from=c.DEFAULT)
  apart = windows(num_frames=window, intervals=(stride,))
  cfg.train = c.replace(cfg.train, loader=apart)
  lengthen(cfg, size, keys, latents)
  return cfg


def data(size, latents):
  """Clips long enough for the windows; the autoencoder learns from parts of them."""
  if size == "tiny":  # they are short
    return unets.base(size)
  if size == "full":
    cfg = unets.base(size, autoencoder=autoencoders.with_task(**AUTOENCODER))
    cfg.train_clips.update(num_frames=64, frame_interval=1)
  else:
    cfg = unets.base(size, num_frames=latents)
  cut = c.call(transforms.SampleFrames, num_frames=16 if size == "full" else 8)
  parts = runs.transform_first(cfg.autoencode.loader, cut)
  cfg.autoencode = c.replace(cfg.autoencode, loader=parts)
  return cfg


def lengthen(cfg, size, keys, latents):
  """`keys`, each window from the last of the one before; then all `latents` between."""
  window, stride = SIZES[size]["window"], SIZES[size]["stride"]
  rolled = lambda plan, **fields: c.bind(
    long_video.rollout,
    sampler=cfg.sampler,
    plan=c.bind(plan, **fields),
    known_wrapper=c.bind(
      guidance.known_frames_cfg, process=cfg.task.process, scale=1.1
    ),
  )
  extended = rolled(long_video.extension_plan, window=window, overlap=1)
  between = dict(window=stride + 1, stride=stride)
  between = rolled(long_video.interpolation_plan, **between)
  predicted = c.call(chain.Pass, num_frames=keys, sampler=extended, ts=cfg.ts)
  own = dict(task=cfg.filling, weights="filler", known_stride=stride)
  filled = c.call(chain.Pass, num_frames=latents, sampler=between, ts=cfg.ts, **own)
  chained = c.call(chain.Chain, generator=cfg.generator, passes=(predicted, filled))
  changes = dict(generator=chained, folder="long")
  if size == "full":  # of 100 frames each: few, and too long to measure as clips
    changes |= dict(signals=c.bind(sample.unconditional_signals, count=16))
  cfg.lengthen = c.replace(cfg.sample, **changes)
  # No stage: the same number of latents by prediction alone, four times as fast.
  runs.change_generator(cfg, sampler=predicted.sampler)
  cfg.evaluate = c.replace(cfg.evaluate, samples="long")
  if size == "tiny":  # its videos are shorter than the clips
    cut = c.call(transforms.SampleFrames, num_frames=latents, start="first")
    cfg.evaluate.real = runs.transformed(cfg.evaluate.real, cut)
  stages = runs.insert(cfg.stages, "lengthen", before="sample")
  left_out = ("sample", "evaluate") if size == "full" else ("sample",)
  cfg.stages = tuple(stage for stage in stages if stage not in left_out)
