"""LVDM: a video U-Net on latents of three dimensions, for clips and what follows them.

https://arxiv.org/abs/2211.13221. Its autoencoder, trained against a discriminator that
sees motion, makes 4 x 32 x 32 latents of 16 x 256 x 256 pixels (`digits` has one of
single frames). `short` makes clips; `text` is its text to video, on Stable Diffusion's
latents of 16 frames and on captions (configs/stable_diffusion.py says how). All others
make long videos with two networks, section 3.3: one is told the first of four latents
that lie four apart, or none, and predicts; one is told both ends of five neighbours and
fills in. What is told is shown with noise
of a level that the network is told too (perturbation.py). The loss counts frames to
generate; the original's counts given ones too. `lengthen` predicts 7 latents, window
after window, guided by what is given (1.1), and fills all 6 gaps (the original's script
fills a third of them): 25 latents, 100 frames. Betas linear in their root from 0.0015
to 0.0155, eps, L1 loss.

python -m vdm_jax.main --config=configs/lvdm.py:digits --workdir=runs/lvdm
python -m vdm_jax.main --config=configs/lvdm.py:tiny --workdir=runs/tiny
"""

from configs import stable_diffusion as sd
from vdm_jax import config as c
from vdm_jax.autoencoders import discriminator, kl_video
from vdm_jax.conditioners import conditioner
from vdm_jax.data import loader, sources, transforms
from vdm_jax.diffusion import guidance, long_video, loss, perturbation
from vdm_jax.models.unet import architectures
from vdm_jax.programs import chain, sample
from vdm_jax.tasks import latent_diffusion

WINDOW = 4  # latents that prediction takes
KEYS = 7  # latents that it makes: two windows that share one


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
  long = arg != "short"
  fields = dict(max_frames=WINDOW) | ({} if size == "full" else dict(num_heads=2))
  sd.network(
    cfg, size, architectures.lvdm_long if long else architectures.lvdm, **fields
  )
  sd.betas(cfg, size, "scaled_linear", beta_ends=(0.0015, 0.0155))
  sd.put(cfg.task, conditioner=c.call(conditioner.Unconditional), drop_rates={})
  sd.put(cfg.task, measure=c.bind(loss.absolute))
  sd.guided(cfg)
  if long:
    hierarchy(cfg, size, stride=2 if size == "tiny" else 4)
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


def hierarchy(cfg, size, stride):
  """Trains both networks, and makes videos with them in the place of samples."""
  latents = (KEYS - 1) * stride + 1
  clips(cfg, size, latents)
  given = c.call(perturbation.KnownFrameNoise)
  sd.put(cfg.task, mask_rates=dict(first=0.5), perturbation=given)
  fields = {k: cfg.architecture[k] for k in cfg.architecture if k not in c.VERBS}
  fields["max_frames"] = stride + 1
  cfg.filler = sd.beside(cfg, c.call(architectures.lvdm_long, **fields))
  fields = {k: cfg.task[k] for k in cfg.task if k not in c.VERBS}
  fields |= dict(network=cfg.filler, mask_rates=dict(ends=0.9))
  cfg.filling = c.call(latent_diffusion.LatentDiffusion, **fields)
  between = windows(cfg.train.loader, stride + 1, interval=1)
  sd.train_also(cfg, "filler", task=cfg.filling, loader=between, init_from=None)
  sd.put(
    cfg.train,
    loader=windows(cfg.train.loader, WINDOW, interval=stride),
    preview=None,  # it would be of neighbours
  )
  lengthen(cfg, stride, latents)
  sd.put(cfg.evaluate, samples="long")
  place = cfg.stages.index("sample")
  after = cfg.stages[place + 1 :]
  if size == "full":  # of 100 frames each: few, and too long to measure as clips
    few, after = c.bind(sample.unconditional, count=16), ()
    sd.put(cfg.lengthen, signals=few, batch_size=4)
  cfg.stages = (*cfg.stages[:place], "lengthen", *after)


def clips(cfg, size, latents):
  """Clips long enough for the windows; the autoencoder learns from parts of them."""
  if size == "full":
    cfg.train_clips.update(num_frames=64, frame_interval=1)
  else:
    cfg.dataset.num_frames = latents * (2 if size == "tiny" else 1)
  part = c.call(transforms.SampleFrames, num_frames=16 if size == "full" else 8)
  whole = cfg.autoencode.loader.source
  parts = c.call(sources.Transformed, source=whole, transforms=(part,))
  sd.put(cfg.autoencode.loader, source=parts)


def windows(clips, num_frames, interval):
  """The loader `clips`, of windows of latents."""
  cut = c.call(
    transforms.RandomFrameRate, num_frames=num_frames, intervals=(interval,), fps=1.0
  )
  source = c.call(sources.Transformed, source=clips.source, transforms=(cut,))
  return c.call(loader.Loader, source=source, batch_size=clips.batch_size)


def lengthen(cfg, stride, latents):
  """Few latents, each window from the last one of the one before; then all between."""
  rolled = lambda plan, **fields: c.bind(
    long_video.rollout,
    sampler=cfg.sampler,
    plan=c.bind(plan, **fields),
    known_wrapper=c.bind(
      guidance.guide_by_known_frames, process=cfg.task.process, scale=1.1
    ),
  )
  predicted = c.call(
    chain.Pass,
    num_frames=KEYS,
    sampler=rolled(long_video.extend, window=WINDOW, overlap=1),
    ts=cfg.ts,
  )
  filled = c.call(
    chain.Pass,
    num_frames=latents,
    every=stride,
    sampler=rolled(long_video.fill_between_keyframes, window=stride + 1, stride=stride),
    ts=cfg.ts,
    task=cfg.filling,
    weights="filler",
  )
  names = ("task", "weights", "autoencoder", "autoencoder_weights", "signals", "fps")
  same = {name: cfg.sample[name] for name in (*names, "scale", "batch_size")}
  _, *size = cfg.sample.shape
  cfg.lengthen = c.bind(chain.run, passes=(predicted, filled), size=tuple(size), **same)
  # No stage: the same number of latents by prediction alone, four times as fast.
  sd.put(cfg.sample, shape=(latents, *size), sampler=predicted.sampler)
