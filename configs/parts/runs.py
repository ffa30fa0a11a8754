"""What every run has: a mesh, how arrays are split over it, samples, stages."""

from vdm_jax import config as c
from vdm_jax.programs import evaluate, sample
from vdm_jax.tasks import generator

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


def samples(
  cfg, network, task, *, decoder, signals, files, evaluation, sampler, ts, **drawn
):
  """Adds the generator, samples of it, and their evaluation.

  Args:
    decoder: (autoencoder, its weights).
    files, evaluation: settings of sample.run and of evaluate.run.
    sampler, ts, drawn: fields of the Generator.
  """
  decoding = dict(zip(("autoencoder", "autoencoder_weights"), decoder, strict=True))
  cfg.network, cfg.task, cfg.sampler, cfg.ts = network, task, sampler, ts
  cfg.generator = c.call(
    generator.Generator, task=task, sampler=sampler, ts=ts, **decoding, **drawn
  )
  cfg.sample = c.bind(sample.run, generator=cfg.generator, signals=signals, **files)
  clips = dict(real=cfg.test_videos, train=cfg.train_videos)
  cfg.evaluate = c.bind(evaluate.run, **clips, **decoding, **evaluation)


def change_generator(cfg, **changes):
  """Samples of `cfg` are drawn with other fields of their generator."""
  cfg.generator = c.replace(cfg.generator, **changes)
  cfg.sample = c.replace(cfg.sample, generator=cfg.generator)


def insert(stages, name, before):
  """The names `stages` with `name` in front of the stage `before`."""
  place = stages.index(before)
  return (*stages[:place], name, *stages[place:])
