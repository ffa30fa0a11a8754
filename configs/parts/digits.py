"""Moving digits as latents: data, autoencoders, training, samples; and all of it tiny.

Handwritten digits fly over a small canvas; 16 x 16 x 3 pixels become 4 x 4 x 8 latents.
"""

from configs.parts import runs
from vdm_jax import config as c
from vdm_jax.autoencoders import clip_tokens, kl_image, stacked
from vdm_jax.conditioners import conditioner
from vdm_jax.data import sources, transforms
from vdm_jax.diffusion import guidance, process, times
from vdm_jax.diffusion.samplers import heun
from vdm_jax.metrics import wavelets
from vdm_jax.models.transformer import video_dit
from vdm_jax.pretrained.formats import native
from vdm_jax.programs import prepare, sample
from vdm_jax.tasks import autoencoding, latent_diffusion
from vdm_jax.training import optimizer
from vdm_jax.worlds.moving_digits import builder, reader

LATENTS, CLIP_LATENTS = "{workdir}/latents", "{workdir}/clip_latents"
ADAM = dict(b2=0.99, weight_decay=0.01)
# Fields of a tiny run.
TINY = dict(
  dataset=dict(train_clips=400, test_clips=200),
  autoencode=dict(measure_batches=4),
  ts=dict(num_steps=2),
)
TINY_NETWORK = dict(network=dict(width=32, depth=2, num_heads=2, unroll=1))
TINY_SAMPLES = dict(sample=dict(signals=dict(per_class=2)))
TINY_SYSTEM = TINY_NETWORK | TINY_SAMPLES
TINY_SYSTEM |= dict(autoencoder=dict(channels=(8, 8), groups=4))
NETWORK = dict(patch=4, width=256, depth=8, num_heads=4, layout=("temporal",), unroll=8)
NETWORK |= dict(out_channels=8)
# The networks whose weights come with the package.
CHANNELS = (24, 48)  # of the autoencoder of frames
CAREFUL = dict(train_clips=20_000, channels=CHANNELS, steps=2000, save=1000)
PACKAGED_NETWORK = NETWORK | dict(
  out_channels=24, patch=1, width=128, depth=5, modulation="shared", unroll=5
)


def base(*, channels=(16, 32), groups=8, module=None, steps=600, save=300, **fields):
  """All of a config that comes before the denoiser.

  Args:
    channels, groups: of the autoencoder of frames, which is trained for `steps`.
    module: an autoencoder of whole clips in its place.
    fields: of the data set, see worlds/moving_digits/builder.py.
  """
  cfg = data("autoencode", "encode", "train", "sample", "evaluate", **fields)
  cfg.train_videos = split(cfg.dataset, "train")
  cfg.test_videos = split(cfg.dataset, "test")
  cfg.autoencoder = module or frame_autoencoder(channels, groups)
  # A soft L1: the plain one is content with the black that most of a frame is.
  cfg.autoencoding = c.call(
    autoencoding.Autoencoding,
    autoencoder=cfg.autoencoder,
    softness=0.3,
    perceptual=c.bind(wavelets.distance, softness=0.3),
    kl_weight=1e-5,
    frames_per_clip=2 if module is None else None,
  )
  preview = dict(task=cfg.autoencoding, source=cfg.test_videos)
  cfg.autoencode = training(
    "autoencoder",
    cfg.autoencoding,
    cfg.train_videos,
    steps=steps,
    adam=dict(b2=0.95),
    peak=4e-3,
    warmup=20,
    ema_decay=0.98,
    cadence=dict(save=save),
    measure_batches=20,
    preview=c.bind(sample.reconstruction_preview, **preview),
    plot=("l1", "perceptual"),
  )
  cfg.encode = runs.encoding(cfg.train_videos, cfg.autoencoder, "autoencoder")
  cfg.latents = records(LATENTS)
  return cfg


def data(*stages, **fields):
  """The settings of a small run, and the data set; its stage stands first."""
  cfg = runs.begin("prepare", *stages, rules=runs.SMALL_RULES)
  cfg.data = "{workdir}/data"
  sizes = dict(canvas=16, num_frames=8, train_clips=12_000, test_clips=1_000)
  sizes |= fields
  cfg.dataset = c.call(builder.build, data_dir=cfg.get_ref("data"), **sizes)
  cfg.prepare = c.bind(prepare.print_splits, builder=cfg.dataset)
  return cfg


def split(dataset, name, keys=("video", "label")):
  """The clips of a split, in memory."""
  source = c.call(sources.Tfds, builder=dataset, split=name, keys=keys)
  return c.call(sources.in_memory, source=source)


def latents_as_videos():
  """The latents of the frames, as clips for a second autoencoder."""
  latents = c.call(sources.RecordFolder, path=LATENTS)
  return runs.transformed(latents, c.call(transforms.LatentMeanToVideo))


def records(path):
  """The records of a folder, in memory."""
  return c.call(sources.in_memory, source=c.call(sources.RecordFolder, path=path))


def frame_autoencoder(channels=CHANNELS, groups=8):
  """Few and narrow convolutions: 16 x 16 x 3 pixels become 4 x 4 x 8 latents."""
  return c.call(
    kl_image.KLImage,
    channels=channels,
    groups=groups,
    patch=2,
    layers_per_block=1,
    latent_channels=8,
    mid_layers=1,
    mid_attention=False,
  )


def add_tokens(cfg):
  """Adds an autoencoder of the latents of `cfg.autoencoder`, and the two as one.

  It makes one token of eight frames' latents, 24 numbers for a clip: few enough that
  almost all of them are a digit and a straight flight. Returns settings of `denoiser`,
  the decoder, with the weights of the package, and the shape.
  """
  cfg.tokens = c.call(
    clip_tokens.ClipTokens,
    window=(8, 4, 4),
    patch=(1, 4, 4),
    num_tokens=1,
    latent_channels=24,
    pixel_channels=8,
    width=160,
    depths=(3, 4),
  )
  cfg.stacked = c.call(stacked.Stacked, outer=cfg.autoencoder, inner=cfg.tokens)
  weights = dict(outer=packaged("autoencoder"), inner=packaged("tokens"))
  return dict(decoder=(cfg.stacked, weights), shape=(1, 1, 1, 24))


def packaged(part):
  """Weights that come with the package: "autoencoder", "tokens" or "denoiser"."""
  return c.call(native.load_packaged, name="moving_digits", part=part)


def training(folder, task, source, *, steps, peak, warmup, adam=ADAM, **rest):
  """A stage by `runs.training`, of AdamW and a cosine, 64 records at a time.

  One number, `steps`, is of the stage and of the cosine.
  """
  steps = c.shared(steps)
  rate = c.call(optimizer.cosine, peak=peak, steps=steps, warmup=warmup)
  adam = c.call(optimizer.adamw, learning_rate=rate, **adam)
  rest = dict(batch_size=64, steps=steps) | rest
  return runs.training(folder, task, source, adam, **rest)


def transformer(cfg, network, *, scale, times_fields=(), signal=None, **settings):
  """Adds a VideoDiT of the latents, with the fields `network`, by `denoiser`.

  It reads the digit, or another `signal`, a pair (name, conditioner). `scale` is of
  guidance, `times_fields` are of the times that are trained.
  """
  if signal is None:
    signal = "label", c.call(conditioner.Labels, num_classes=10)
    network = network | dict(num_classes=10)
  network = c.call(video_dit.VideoDiT, **dict(dtype="float32") | network)
  cfg.guide = guide(scale, signal[0])
  task = c.call(
    latent_diffusion.LatentDiffusion,
    network=network,
    process=c.call(process.Flow),
    prediction="velocity",
    conditioner=signal[1],
    times=c.bind(times.logit_normal, **dict(times_fields)),
    drop_rates={signal[0]: 0.1},
  )
  drawn = dict(sampler=c.bind(heun.heun), wrappers=(cfg.guide,))
  drawn["ts"] = c.bind(times.uniform_grid, num_steps=20)
  denoiser(cfg, network, task, **drawn, **settings)


def guide(scale, *names):
  """Guidance away from what knows none of the signals `names`, all left out at once."""
  return c.bind(guidance.guide, drop=(names,), scales=(scale,))


def denoiser(cfg, network, task, settings, *, signals=None, preview=True, **drawn):
  """Adds training on `cfg.latents`, samples of digits, and their evaluation.

  Args:
    settings: of `training`.
    signals: what samples are drawn for, instead of digits.
    preview: whether training draws some.
    drawn: settings of `runs.samples`.
  """
  digits = lambda count: (
    signals or c.bind(sample.class_signals, num_classes=10, per_class=count)
  )
  rest = dict(
    weights="denoiser",
    decoder=(cfg.autoencoder, "autoencoder"),
    shape=(8, 4, 4, 8),
    signals=digits(25),
    files=dict(fps=8, scale=4),
    metric=c.bind(reader.digit_score_rows),
  )
  runs.samples(cfg, network, task, **rest | drawn)
  if preview:
    drawing = dict(generator=cfg.generator, signals=digits(1))
    settings = settings | dict(preview=c.call(sample.Preview, **drawing))
  cfg.train = training("denoiser", task, cfg.latents, **settings)


def tiny(cfg, *changes, **steps):
  """The config with little data, small networks and few steps; `steps` of others."""
  trainings = few_steps(autoencode=30, train=20, **steps)
  return runs.change(cfg, TINY, trainings, *changes)


def few_steps(**steps):
  """{stage: its fields} of short trainings; `steps` of each."""
  return {
    stage: dict(
      steps=count,
      loader=dict(batch_size=16),
      optimizer=dict(learning_rate=dict(steps=count, warmup=5)),
      cadence=dict(log=5, save=10, preview=20),
    )
    for stage, count in steps.items()
  }
