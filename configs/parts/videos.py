"""Folders of videos as latents of 16 frames: clips, autoencoder, training, samples.

What Latte's data sets and the full sizes of the U-Nets share. The autoencoder is Stable
Diffusion's: --config.pretrained_autoencoder names a published one, without it one is
trained from scratch. --config.pretrained names published weights of the denoiser.
"""

from ml_collections import ConfigDict

from configs.parts import autoencoders, runs
from vdm_jax import config as c
from vdm_jax.data import folders, loader, sources, texts, transforms
from vdm_jax.metrics import frames, fvd, temporal
from vdm_jax.pipelines import text_encoder
from vdm_jax.pretrained import start
from vdm_jax.programs import embed, encode, frozen, train
from vdm_jax.training import loop, optimizer

LATENTS = "{workdir}/latents"


def splits(data, read=folders.videos, **fields):
  """Clips of the folders `data`/train and `data`/test.

  Args:
    data: a shared string.
    read: a function of data/folders.py, which takes `fields`.
  """
  return tuple(
    c.call(read, path=data + f"/{split}", **fields) for split in ("train", "test")
  )


def base(data, clips, *, pixels=256, cut=(), flip=0.5, windows=1, autoencoder=None):
  """All of a config that comes before the denoiser.

  Args:
    data: the folder of the videos, shared.
    clips: sources of training and held-out clips.
    pixels: of the videos' sides.
    cut: transforms before the crop.
    flip: share of the clips that is mirrored.
    windows: how many are cut of a training video, each encoded once.
    autoencoder: (module, its task) in the place of Stable Diffusion's.
  """
  cfg = ConfigDict()
  # Published weights: upstream's files, or folders; "" is none, training from scratch.
  cfg.pretrained = ""
  cfg.pretrained_autoencoder = ""
  cfg.i3d = ""  # weights of I3D for FVD
  cfg.needs = dict(
    encode=("pretrained_autoencoder",), train=("pretrained",), evaluate=("i3d",)
  )
  cfg.seed = 3407
  cfg.mesh = runs.MESH
  cfg.rules = runs.RULES
  cfg.compiler = "auto"
  cfg.stages = ("autoencode", "encode", "train", "sample", "evaluate")
  cfg.data = data
  cfg.train_clips, cfg.test_clips = clips
  square = autoencoders.crop(pixels)
  crop = (*cut, *square)
  mirrored = (*crop, c.call(transforms.RandomFlip, rate=flip))
  transformed = lambda source, parts: c.call(
    sources.Transformed, source=source, transforms=parts
  )
  cfg.train_videos = transformed(cfg.train_clips, mirrored)
  cfg.test_videos = transformed(cfg.test_clips, crop)
  cfg.autoencoder, task = autoencoder or autoencoders.stable_diffusion()
  clips = (cfg.train_videos, cfg.test_videos)
  cfg.autoencode = autoencoders.training(task, *clips, square)
  cfg.autoencoder_weights = c.call(
    start.weights, path=cfg.get_ref("pretrained_autoencoder"), otherwise="autoencoder"
  )
  repeated = c.call(sources.Repeated, source=cfg.train_clips, times=windows)
  cfg.encode = c.bind(
    encode.run,
    source=transformed(repeated, mirrored),
    autoencoder=cfg.autoencoder,
    weights=cfg.autoencoder_weights,
    batch_size=4,
  )
  cfg.latents = c.call(sources.RecordFolder, path=LATENTS)
  return cfg


def captions(cfg, width, drop):
  """Adds the stage that embeds the clips' texts, for training and for samples.

  Samples are of --config.prompts or, without, of the captions of held-out clips.

  Args:
    width: numbers a token of the text encoder.
    drop: share of the clips that are trained with the empty text.
  """
  cfg.text_encoder = "text_encoder"
  cfg.prompts = ""
  cfg.needs.update(embed=("text_encoder",), sample=("text_encoder",))
  cfg.encoder = c.call(
    text_encoder.TextEncoder,
    folder=cfg.get_ref("text_encoder"),
    length=77,
    width=width,
    masked=False,
    truncate=True,
  )
  found = c.bind(
    texts.unique_captions_and_empty, clips=(cfg.train_clips, cfg.test_clips)
  )
  cfg.embed = c.bind(embed.run, texts=found, encoder=cfg.encoder)
  cfg.stages = ("embed", *cfg.stages)
  cfg.latents = captioned(cfg.latents, drop=drop)
  cfg.signals = c.bind(
    embed.prompt_signals,
    encoder=cfg.encoder,
    texts=cfg.get_ref("prompts"),
    clips=c.deferred_call(cfg.test_clips),  # not opened where there are prompts
    count=2048,
  )


def encode_in_step(cfg):
  """Trains on clips and captions as they are, in place of the stages encode and embed.

  The autoencoder and the text encoder stand frozen in the training step.
  """
  cfg.task = c.replace(
    cfg.task, autoencoder=cfg.autoencoder, encoders=dict(text=cfg.encoder)
  )
  cfg.latents = c.replace(
    cfg.latents,
    source=cfg.train_videos,
    texts=c.call(texts.TokenizeText, encoder=cfg.encoder),
  )
  weights = c.call(
    frozen.published_or_trained,
    published=cfg.get_ref("pretrained_autoencoder"),
    trained="autoencoder",
  )
  clips = c.replace(cfg.train.loader, source=cfg.latents)
  cfg.train = c.replace(cfg.train, task=cfg.task, loader=clips, autoencoder=weights)
  cfg.stages = tuple(name for name in cfg.stages if name not in ("encode", "embed"))
  cfg.needs.train += ("text_encoder", "pretrained_autoencoder")


def captioned(source, **settings):
  """The clips of `source` with what the stage `embed` wrote of their texts."""
  return c.call(texts.WithTexts, source=source, texts="{workdir}/texts", **settings)


def denoiser(cfg, network, task, *, batch_size=40, stride=3, adam, **drawn):
  """Adds training on `cfg.latents`, samples, and their evaluation.

  Args:
    network: whose published weights may be read.
    stride: frames between two real ones in evaluation.
    adam: settings of the optimizer.
    drawn: settings of `runs.samples`; by default samples of `cfg.signals`.
  """
  published = dict(path=cfg.get_ref("pretrained"), module=network)
  cfg.denoiser_weights = c.call(start.weights, otherwise="denoiser", **published)
  cfg.train = c.bind(
    train.run,
    folder="denoiser",
    task=task,
    loader=c.call(loader.Loader, source=cfg.latents, batch_size=batch_size),
    optimizer=c.call(optimizer.adamw, **adam),
    steps=1_000_000,
    init_from=c.bind(start.init_from_published, **published),
    cadence=c.call(loop.Cadence, save=10_000),
  )
  # FVD as published: 2,048 clips of each kind. It needs I3D's weights, --config.i3d.
  fvd_rows = c.bind(fvd.fvd_rows, file=cfg.get_ref("i3d"))
  metrics = (fvd_rows, c.bind(temporal.motion_rows), c.bind(frames.reconstruction_rows))
  rest = dict(
    weights=cfg.denoiser_weights,
    decoder=(cfg.autoencoder, cfg.autoencoder_weights),
    shape=(16, 32, 32, 4),
    signals=cfg.get("signals"),
    files=dict(batch_size=4),
    evaluation=dict(train_clips=2048, metrics=metrics, stride=stride, batch_size=4),
  )
  runs.samples(cfg, network, task, **rest | drawn)
