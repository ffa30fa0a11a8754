"""Settings of every run: its mesh, how arrays are split over it, its stages."""

from vdm_jax import config as c

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


def change_generator(cfg, **changes):
  """Samples of `cfg` are drawn with other fields of their generator."""
  generator = c.replace(cfg.sample.generator, **changes)
  cfg.sample = c.replace(cfg.sample, generator=generator)


def insert(stages, name, before):
  """The names `stages` with `name` in front of the stage `before`."""
  place = stages.index(before)
  return (*stages[:place], name, *stages[place:])
