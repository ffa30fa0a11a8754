"""Folders of videos as latents of 16 frames: clips, autoencoder, training, samples.

What Latte's data sets and the full sizes of the U-Nets share. The autoencoder is Stable
Diffusion's: --config.pretrained_autoencoder names a published one, without it one is
trained from scratch. --config.pretrained names published weights of the denoiser.
"""

from configs.parts import autoencoders, runs
from vdm_jax import config as c
from vdm_jax.data import folders, pictures, sources, texts, transforms
from vdm_jax.metrics import fvd
from vdm_jax.pipelines import text_encoder
from vdm_jax.pretrained import start
from vdm_jax.programs import embed, frozen
from vdm_jax.training import optimizer

LATENTS = "{workdir}/latents"


def splits(data, read=folders.videos, **fields):
  """(`data`, shared, clips of its folders train and test), by a function of folders."""
  data = c.shared(data)
  clips = lambda split: c.call(read, path=data + f"/{split}", **fields)
  return data, (clips("train"), clips("test"))


def base(data, clips, *, pixels=256, cut=(), flip=0.5, windows=1, autoencoder=None):
  """All of a config that comes before the denoiser.

  Args:
    data, clips: of `splits`.
    pixels: of the videos' sides, after the transforms `cut`.
    flip: share of the clips that is mirrored.
    windows: how many are cut of a training video, each encoded once.
    autoencoder: (module, its task) in the place of Stable Diffusion's.
  """
  stages = ("autoencode", "encode", "train", "sample", "evaluate")
  cfg = runs.begin(*stages, seed=3407)
  # Published weights: upstream's files, or folders; "" is none, training from scratch.
  cfg.pretrained = ""
  cfg.pretrained_autoencoder = ""
  cfg.i3d = ""  # weights of I3D for FVD
  cfg.needs = dict(
    encode=("pretrained_autoencoder",), train=("pretrained",), evaluate=("i3d",)
  )
  cfg.compiler = "auto"
  cfg.data = data
  cfg.train_clips, cfg.test_clips = clips
  square = autoencoders.crop(pixels)
  crop = (*cut, *square)
  mirrored = (*crop, c.call(transforms.RandomFlip, rate=flip))
  cfg.train_videos = runs.transformed(cfg.train_clips, *mirrored)
  cfg.test_videos = runs.transformed(cfg.test_clips, *crop)
  cfg.autoencoder, task = autoencoder or autoencoders.with_task()
  clips = (cfg.train_videos, cfg.test_videos)
  cfg.autoencode = autoencoders.training(task, *clips, square)
  path = cfg.get_ref("pretrained_autoencoder")
  weights = dict(path=path, otherwise="autoencoder")
  cfg.autoencoder_weights = c.call(start.published_weights, **weights)
  repeated = c.call(sources.Repeated, source=cfg.train_clips, times=windows)
  windows = runs.transformed(repeated, *mirrored)
  encoder = cfg.autoencoder, cfg.autoencoder_weights
  cfg.encode = runs.encoding(windows, *encoder, batch_size=4)
  cfg.latents = c.call(sources.RecordFolder, path=LATENTS)
  return cfg


def captions(cfg, width):
  """Adds the stage that embeds the clips' texts, for training and for samples.

  A token of the encoder has `width` numbers; a tenth of the training clips have the
  empty text. Samples are of --config.prompts or, without, of the held-out captions.
  """
  cfg.text_encoder = "text_encoder"
  cfg.prompts = ""
  cfg.needs.update(embed=("text_encoder",), sample=("text_encoder",))
  clip = dict(folder=cfg.get_ref("text_encoder"), length=77, width=width)
  clip |= dict(masked=False, truncate=True)
  cfg.encoder = c.call(text_encoder.TextEncoder, **clip)
  clips = (cfg.train_clips, cfg.test_clips)
  found = c.bind(texts.unique_captions_and_empty, sources=clips)
  cfg.embed = c.bind(embed.run, texts=found, encoder=cfg.encoder)
  cfg.stages = ("embed", *cfg.stages)
  cfg.latents = captioned(cfg.latents, drop=0.1)
  cfg.signals = c.bind(
    embed.prompt_signals,
    encoder=cfg.encoder,
    texts=cfg.get_ref("prompts"),
    clips=c.deferred_call(cfg.test_clips),  # not opened where there are prompts
    count=2048,
  )


def encode_in_step(cfg):
  """Trains on clips and captions as they are, in place of the stages encode and embed.

  The autoencoder and the encoders of texts and, where the config has one, of first
  frames stand frozen in the training step.
  """
  clips, encoders = cfg.train_videos, dict(text=cfg.encoder)
  if "image_encoder" in cfg.encode:
    encoder = encoders["image"] = cfg.encode.image_encoder
    first = lambda read: runs.transformed(
      cfg.train_videos, c.call(read, encoder=encoder)
    )
    clips = first(pictures.PreprocessFirstFrame)
    # Samples begin with clips of which the loader encodes first frames and captions.
    encoded = dict(texts=c.call(texts.TextToEmbedding, encoder=cfg.encoder))
    encoded |= dict(source=first(pictures.AddFirstFrameTokens))
    signals = cfg.sample.signals
    signals = c.replace(signals, source=c.replace(signals.source, **encoded))
    cfg.sample = c.replace(cfg.sample, signals=signals)
    cfg.needs.train += ("image_encoder",)
    cfg.needs.sample += ("image_encoder",)
  cfg.task = c.replace(cfg.task, autoencoder=cfg.autoencoder, encoders=encoders)
  tokens = c.call(texts.TextToTokenIds, encoder=cfg.encoder)
  cfg.latents = c.replace(cfg.latents, source=clips, texts=tokens)
  either = dict(published=cfg.get_ref("pretrained_autoencoder"), trained="autoencoder")
  weights = c.call(frozen.choose_weights_folder, **either)
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
    stride: frames between two real ones in evaluation.
    adam: settings of the optimizer.
    drawn: settings of `runs.samples`; by default samples of `cfg.signals`.
  """
  published = dict(path=cfg.get_ref("pretrained"), module=network)
  weights = dict(published, otherwise="denoiser")
  cfg.denoiser_weights = c.call(start.published_weights, **weights)
  cfg.train = runs.training(
    "denoiser",
    task,
    cfg.latents,
    c.call(optimizer.adamw, **adam),
    batch_size=batch_size,
    steps=1_000_000,
    init_from=c.bind(start.init_from_published, **published),
    cadence=dict(save=10_000),
  )
  # FVD as published: 2,048 clips of each kind. It needs I3D's weights, --config.i3d.
  rest = dict(
    weights=cfg.denoiser_weights,
    decoder=(cfg.autoencoder, cfg.autoencoder_weights),
    shape=(16, 32, 32, 4),
    signals=cfg.get("signals"),
    files=dict(batch_size=4),
    metric=c.bind(fvd.fvd_score_rows, i3d_file=cfg.get_ref("i3d")),
    clips=dict(train_clips=2048, stride=stride, batch_size=4),
  )
  runs.samples(cfg, network, task, **rest | drawn)
