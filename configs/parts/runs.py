"""What every run has: a mesh, how arrays are split over it, samples, stages."""

from ml_collections import ConfigDict

from vdm_jax import config as c
from vdm_jax.data import loader, sources
from vdm_jax.metrics import frames, temporal
from vdm_jax.programs import encode, evaluate, sample, train
from vdm_jax.tasks import generator
from vdm_jax.training import loop

MESH = dict(data=-1, fsdp=1, seq=1, tensor=1)
RULES = (
  ("batch", ("data", "fsdp")),
  ("frames", "seq"),
  ("space", "seq"),
  ("height", ("data", "fsdp", "seq", "tensor")),
  ("embed", "fsdp"),
  ("conv_out", "fsdp"),
  ("heads", "tensor"),
  ("mlp", "tensor"),
)
SMALL_RULES = (("batch", ("data", "fsdp")), ("embed", "fsdp"), ("mlp", "tensor"))


def begin(*stages, seed=0, rules=RULES):
  """A config of these stages, on all devices."""
  return ConfigDict(dict(stages=stages, seed=seed, mesh=MESH, rules=rules))


def change(cfg, *changes):
  """Gives fields of `cfg` other values, by nested dicts of fields that it has."""
  cfg.lock()
  for fields in changes:
    cfg.update(fields)
  return cfg.unlock()


def transformed(source, *parts):
  """The records of `source` after the transforms `parts`."""
  return c.call(sources.Transformed, source=source, transforms=parts)


def transform_first(clips, *parts):
  """The loader `clips`, whose records go through the transforms `parts` first."""
  return c.replace(clips, source=transformed(clips.source, *parts))


def training(
  folder, task, source, optimizer, *, batch_size, load=(), cadence=(), **rest
):
  """A stage that trains on `batch_size` records of `source` at a time.

  Args:
    load, cadence: fields of the loader.Loader and of the loop.Cadence.
    rest: settings of train.run.
  """
  return c.bind(
    train.run,
    folder=folder,
    task=task,
    loader=c.call(loader.Loader, source=source, batch_size=batch_size, **dict(load)),
    optimizer=optimizer,
    cadence=c.call(loop.Cadence, **dict(cadence)),
    **rest,
  )


def encoding(source, autoencoder, weights, *, batch_size=500, **settings):
  """The stage that encodes the clips of `source`."""
  parts = dict(source=source, autoencoder=autoencoder, weights=weights)
  return c.bind(encode.run, **parts, batch_size=batch_size, **settings)


def samples(
  cfg, network, task, *, decoder, signals, files, metric, sampler, ts, clips=(), **drawn
):
  """Adds the generator, samples of it, and, with test videos, their evaluation.

  Args:
    decoder: (autoencoder, its weights).
    files, clips: settings of sample.run and of evaluate.run.
    metric: the first of the evaluation.
    sampler, ts, drawn: fields of the Generator.
  """
  decoding = dict(zip(("autoencoder", "autoencoder_weights"), decoder, strict=True))
  cfg.network, cfg.task, cfg.sampler, cfg.ts = network, task, sampler, ts
  cfg.generator = c.call(
    generator.Generator, task=task, sampler=sampler, ts=ts, **decoding, **drawn
  )
  cfg.sample = c.bind(sample.run, generator=cfg.generator, signals=signals, **files)
  if "test_videos" in cfg:
    others = temporal.motion_score_rows, frames.reconstruction_score_rows
    rows = (metric, *map(c.bind, others))
    clips = dict(clips, real=cfg.test_videos, train=cfg.train_videos, metrics=rows)
    cfg.evaluate = c.bind(evaluate.run, **clips, **decoding)


def change_generator(cfg, **changes):
  """Samples of `cfg` are drawn with other fields of their generator."""
  cfg.generator = c.replace(cfg.generator, **changes)
  cfg.sample = c.replace(cfg.sample, generator=cfg.generator)


def insert(stages, name, before):
  """The names `stages` with `name` in front of the stage `before`."""
  place = stages.index(before)
  return (*stages[:place], name, *stages[place:])
