"""Moving digits as latents: data, autoencoders, training, samples, at several sizes.

Handwritten digits fly over a small canvas; 16 x 16 x 3 pixels become 4 x 4 x 8 latents.
"""

from ml_collections import ConfigDict

from configs.parts import runs
from vdm_jax import config as c
from vdm_jax.autoencoders import clip_tokens, kl_image, stacked
from vdm_jax.conditioners import conditioner
from vdm_jax.data import loader, sources
from vdm_jax.diffusion import guidance, process, times
from vdm_jax.metrics import frames, temporal, wavelets
from vdm_jax.models.transformer import video_dit
from vdm_jax.pretrained.formats import native
from vdm_jax.programs import encode, evaluate, prepare, sample, train
from vdm_jax.tasks import autoencoding, generator, latent_diffusion
from vdm_jax.training import loop, optimizer
from vdm_jax.worlds.moving_digits import builder, reader

LATENTS = "{workdir}/latents"
SHAPE = (8, 4, 4, 8)  # of a clip's latents
# A training of a few steps, whatever is trained.
TINY = dict(warmup=5, batch_size=16, cadence=dict(log=5, save=10, preview=20))
# Clips; widths of the autoencoder, and its training.
SIZES = {
  "quick": dict(
    clips=(12_000, 1_000),
    autoencoder=dict(channels=(16, 32), groups=8),
    training=dict(steps=600, cadence=dict(save=300), measure_batches=20),
  ),
  "full": dict(
    clips=(20_000, 1_000),
    autoencoder=dict(channels=(24, 48), groups=8),
    training=dict(steps=2000, measure_batches=20),
  ),
  "tiny": dict(
    clips=(400, 200),
    autoencoder=dict(channels=(8, 8), groups=4),
    training=TINY | dict(steps=30, measure_batches=4),
  ),
}
# The networks whose weights come with the package.
PACKAGED = dict(channels=(24, 48), groups=8)
PACKAGED_NETWORK = dict(
  out_channels=24,
  patch=1,
  width=128,
  depth=5,
  num_heads=4,
  layout=("temporal",),
  modulation="shared",
  unroll=5,
)
TOKEN_SHAPE = (1, 1, 1, 24)  # of a clip's one token


def base(size, module=None, widths=None, **fields):
  """All of a config that comes before the denoiser.

  Args:
    size: of SIZES.
    module: an autoencoder of whole clips in the place of that of frames.
    widths: of the autoencoder, such as PACKAGED, where they are not the size's.
    fields: of the data set, see worlds/moving_digits/builder.py.
  """
  sizes = SIZES[size]
  cfg = ConfigDict()
  cfg.seed = 0
  cfg.mesh = runs.MESH
  cfg.rules = runs.SMALL_RULES
  cfg.stages = ("prepare", "autoencode", "encode", "train", "sample", "evaluate")
  cfg.data = "{workdir}/data"
  train_clips, test_clips = sizes["clips"]
  counts = dict(train_clips=train_clips, test_clips=test_clips)
  cfg.dataset = dataset(cfg.get_ref("data"), **counts | fields)
  cfg.prepare = c.bind(prepare.run, builder=cfg.dataset)
  cfg.train_videos, cfg.test_videos = (
    split(cfg.dataset, name) for name in ("train", "test")
  )
  cfg.autoencoder = module or frame_autoencoder(**widths or sizes["autoencoder"])
  cfg.autoencoding = frame_autoencoding(cfg.autoencoder, 2 if module is None else None)
  preview = dict(task=cfg.autoencoding, source=cfg.test_videos)
  settings = dict(peak=4e-3, warmup=20, b2=0.95, weight_decay=0.0, ema_decay=0.98)
  cfg.autoencode = training(
    "autoencoder",
    cfg.autoencoding,
    cfg.train_videos,
    preview=c.bind(sample.reconstructions, **preview),
    plot=("l1", "perceptual"),
    **settings | sizes["training"],
  )
  cfg.encode = c.bind(
    encode.run,
    source=cfg.train_videos,
    autoencoder=cfg.autoencoder,
    weights="autoencoder",
    batch_size=500,
  )
  cfg.latents = records(LATENTS)
  return cfg


def dataset(data, *, train_clips, test_clips, num_frames=8, **fields):
  """Clips of 16 x 16 pixels, built in the folder `data`."""
  return c.call(
    builder.build,
    data_dir=data,
    canvas=16,
    num_frames=num_frames,
    train_clips=train_clips,
    test_clips=test_clips,
    **fields,
  )


def split(dataset, name, keys=("video", "label")):
  """The clips of a split, in memory."""
  source = c.call(sources.Tfds, builder=dataset, split=name, keys=keys)
  return c.call(sources.in_memory, source=source)


def records(path):
  """The records of a folder, in memory."""
  return c.call(sources.in_memory, source=c.call(sources.RecordFolder, path=path))


def frame_autoencoder(**widths):
  """Few and narrow convolutions: 16 x 16 x 3 pixels become 4 x 4 x 8 latents."""
  return c.call(
    kl_image.KLImage,
    patch=2,
    layers_per_block=1,
    latent_channels=8,
    mid_layers=1,
    mid_attention=False,
    **widths,
  )


def frame_autoencoding(module, frames_per_clip):
  """Its task: a soft L1, for the plain one is content with the black of most frames."""
  return c.call(
    autoencoding.Autoencoding,
    autoencoder=module,
    softness=0.3,
    perceptual=c.bind(wavelets.distance, softness=0.3),
    kl_weight=1e-5,
    frames_per_clip=frames_per_clip,
  )


def token_autoencoder(**fields):
  """Makes one token of the eight frames' latents.

  24 numbers for a clip: few enough that almost all are a digit and a straight flight.
  """
  settings = dict(
    window=(8, 4, 4),
    patch=(1, 4, 4),
    num_tokens=1,
    latent_channels=24,
    pixel_channels=8,
    width=160,
    depths=(3, 4),
  )
  return c.call(clip_tokens.ClipTokens, **settings | fields)


def add_tokens(cfg, **fields):
  """Adds an autoencoder of the latents of `cfg.autoencoder`, and the two as one."""
  cfg.tokens = token_autoencoder(**fields)
  cfg.stacked = c.call(stacked.Stacked, outer=cfg.autoencoder, inner=cfg.tokens)


def packaged(part):
  """Weights that come with the package: "autoencoder", "tokens" or "denoiser"."""
  return c.call(native.packaged, name="moving_digits", part=part)


def packaged_decoder(cfg):
  """(`cfg.stacked`, its weights that come with the package)."""
  return cfg.stacked, dict(outer=packaged("autoencoder"), inner=packaged("tokens"))


def training(
  folder,
  task,
  source,
  *,
  steps,
  peak,
  warmup,
  batch_size=64,
  b2=0.99,
  weight_decay=0.01,
  cadence=(),
  **settings,
):
  """A stage of training by AdamW and a cosine, of `batch_size` records of `source`.

  Args:
    cadence: fields of the loop.Cadence.
    settings: of `train.run`.
  """
  rate = c.call(optimizer.cosine, peak=peak, steps=steps, warmup=warmup)
  return c.bind(
    train.run,
    folder=folder,
    task=task,
    loader=c.call(loader.Loader, source=source, batch_size=batch_size),
    optimizer=c.call(
      optimizer.adamw, learning_rate=rate, b2=b2, weight_decay=weight_decay
    ),
    steps=steps,
    cadence=c.call(loop.Cadence, **dict(cadence)),
    **settings,
  )


def transformer(**fields):
  """A VideoDiT of a clip's latents, told the digit."""
  return c.call(video_dit.VideoDiT, num_classes=10, **fields)


def flow(network, **times_fields):
  """The task of a class-conditional network that predicts a velocity."""
  return c.call(
    latent_diffusion.LatentDiffusion,
    network=network,
    process=c.call(process.Flow),
    prediction="velocity",
    conditioner=c.call(conditioner.Labels, num_classes=10),
    times=c.bind(times.logit_normal, **times_fields),
    drop_rates=dict(label=0.1),
  )


def guide(scale, *names):
  """Guidance away from what knows none of the signals `names`, all left out at once."""
  return c.bind(guidance.guide, drop=(names,), scales=(scale,))


def denoiser(
  cfg,
  network,
  task,
  *,
  sampler,
  ts,
  wrappers,
  weights="denoiser",
  decoder=None,
  shape=SHAPE,
  per_class=25,
  signals=None,
  preview=True,
  **settings,
):
  """Adds training on `cfg.latents`, samples, and their evaluation.

  Args:
    weights: of the samples, where they are not trained here.
    decoder: (autoencoder, its weights) of the samples, where it is another one.
    shape: of the latents.
    per_class: samples of each digit.
    signals: what samples are drawn for, instead of digits.
    preview: whether training draws some.
    settings: of `training`.
  """
  cfg.network = network
  cfg.task = task
  cfg.sampler, cfg.ts = sampler, ts
  module, arrays = decoder or (cfg.autoencoder, "autoencoder")
  decoding = dict(autoencoder=module, autoencoder_weights=arrays)
  generating = c.call(
    generator.Generator,
    task=task,
    weights=weights,
    shape=shape,
    sampler=sampler,
    ts=ts,
    wrappers=wrappers,
    **decoding,
  )
  digits = lambda count: (
    signals or c.bind(sample.classes, num_classes=10, per_class=count)
  )
  cfg.signals = digits(per_class)
  if preview:
    settings["preview"] = c.call(
      sample.Preview, generator=generating, signals=digits(1)
    )
  cfg.train = training("denoiser", task, cfg.latents, **settings)
  cfg.sample = c.bind(
    sample.run, generator=generating, signals=cfg.signals, fps=8, scale=4
  )
  cfg.evaluate = c.bind(
    evaluate.run,
    real=cfg.test_videos,
    train=cfg.train_videos,
    metrics=(c.bind(reader.rows), c.bind(temporal.rows), c.bind(frames.rows)),
    **decoding,
  )
