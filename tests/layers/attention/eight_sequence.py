"""Attention over sequences split over 8 fake devices, as JSON; run by test_sequence.py.

For each case: the largest differences from one device, of the largest entry, and how
often its program has each collective, forward and in the gradient.
"""

import functools
import json
import re
import sys

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from tests.support import drawn
from vdm_jax import sharding
from vdm_jax.layers.attention import attention, chunked, kernels, sequence, shard_map

RULES = (
  ("batch", ("data", "fsdp")),
  ("frames", "seq"),
  ("space", "seq"),
  ("heads", "tensor"),
)
SEQUENCE = ("batch", "frames", "heads", None)
SPATIAL = ("batch", "frames", None, "heads", None)
COLLECTIVES = ("all-to-all", "all-gather", "all-reduce", "collective-permute")

# (data, fsdp, seq, tensor), shape of q, names, options.
CASES = {
  "seq 8": ((1, 1, 8, 1), (2, 16, 8, 8), SEQUENCE, {}),
  "data 2, seq 4": ((2, 1, 4, 1), (2, 16, 4, 8), SEQUENCE, {}),
  "fsdp 2, seq 2, tensor 2": ((1, 2, 2, 2), (2, 16, 4, 8), SEQUENCE, {}),
  "3 heads": ((2, 1, 4, 1), (2, 16, 3, 8), SEQUENCE, {}),
  "3 heads, tensor 2": ((2, 1, 2, 2), (2, 16, 3, 8), SEQUENCE, {}),
  "13 tokens": ((2, 1, 4, 1), (2, 13, 4, 8), SEQUENCE, {}),
  "5 tokens, 3 heads": ((1, 1, 8, 1), (1, 5, 3, 8), SEQUENCE, {}),
  "rows of one": ((2, 1, 4, 1), (1, 16, 4, 8), SEQUENCE, {}),
  "keys hidden": ((2, 1, 4, 1), (2, 13, 4, 8), SEQUENCE, {"mask": (2, 1, 1, 13)}),
  "in chunks": ((2, 1, 4, 1), (2, 50, 4, 8), SEQUENCE, {"kernel": "chunked"}),
  # A kernel that the compiler cannot split, on rows of two axes, no sequence.
  "rows": ((2, 1, 2, 2), (2, 4, 9, 4, 8), SPATIAL, {"kernel": "chunked"}),
  "uneven rows": ((2, 1, 2, 2), (1, 3, 9, 3, 8), SPATIAL, {"kernel": "chunked"}),
}


def everything(q, k, v, *tangents, attend):
  """(output, jvp, gradients for q, k and v)."""
  out, tangent = jax.jvp(attend, (q, k, v), tangents)
  loss = lambda *x: (attend(*x) * tangents[0]).sum()
  return out, tangent, *jax.grad(loss, (0, 1, 2))(q, k, v)


def on_mesh(sizes, shape, names, options):
  """(everything, collectives) of the case on its mesh, by one compiled program."""
  axes = zip(("data", "fsdp", "seq", "tensor"), sizes, strict=True)
  mesh = sharding.make_mesh(dict(axes))
  attend = functools.partial(attention.attend, names=names, **options)
  with sharding.use_mesh(mesh, RULES):
    layout = shard_map.layout_of(shape, names)
    even = shape[-3] % shard_map.num_devices(layout.sequence) == 0
    axes = (*layout.rows, layout.sequence if even else (), layout.heads)
    place = NamedSharding(mesh, P(*(a or None for a in axes)))
    args = [jax.device_put(x, place) for x in drawn.normal(6, *shape)]
    run = jax.jit(functools.partial(everything, attend=attend), out_shardings=place)
    compiled = run.lower(*args).compile()
    found = [np.asarray(x) for x in compiled(*args)]
  text = compiled.as_text()
  count = lambda name: len(re.findall(rf" {name}(?:-start)?\(", text))
  return found, {name: count(name) for name in COLLECTIVES}


def compare(sizes, shape, names, options):
  options = dict(options)
  if "mask" in options:
    mask = np.random.default_rng(1).random(options["mask"]) < 0.5
    options["mask"] = mask
  attend = functools.partial(kernels.xla, mask=options.get("mask"))
  plain = jax.jit(functools.partial(everything, attend=attend))
  expected = plain(*drawn.normal(6, *shape))
  found, collectives = on_mesh(sizes, shape, names, options)
  errors = [
    float(np.abs(a - b).max() / np.abs(b).max())
    for a, b in zip(found, expected, strict=True)
  ]
  return {"errors": errors, "collectives": collectives}


def without_correction(one, other):
  top = jax.numpy.maximum(one.top, other.top)
  return chunked.SoftmaxState(one.total + other.total, one.weight + other.weight, top)


def main():
  chunked.CHUNK_BYTES, chunked.KEYS, chunked.MIN_QUERIES = 0, 8, 4
  out = {}
  for split in sequence.SPLITS:
    for name, (sizes, shape, names, options) in CASES.items():
      if split == "ring" and names is SPATIAL:
        continue
      out[f"{split}: {name}"] = compare(
        sizes, shape, names, {"sequence_split": split, **options}
      )
  sizes, shape, names, options = CASES["data 2, seq 4"]
  right = chunked.merge_states
  chunked.merge_states = without_correction
  out["wrong: ring"] = compare(sizes, shape, names, {"sequence_split": "ring"})
  chunked.merge_states = right
  # Every device attends to its own tokens only.
  sequence.SPLITS["local"] = lambda q, k, v, mask, **_: kernels.xla(q, k, v, mask)
  out["wrong: local"] = compare(sizes, shape, names, {"sequence_split": "local"})
  json.dump(out, sys.stdout)


if __name__ == "__main__":
  main()
