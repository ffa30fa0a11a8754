"""Settings of every run: its mesh, how arrays are split over it, its stages."""

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


def insert(stages, name, before):
  """The names `stages` with `name` in front of the stage `before`."""
  place = stages.index(before)
  return (*stages[:place], name, *stages[place:])
