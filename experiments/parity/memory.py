"""How much host memory opening a sharded checkpoint takes, and how fast it is.

Writes a text encoder of T5's layout with random float32 weights in shards of 1 GB,
opens it in a process of its own, and compares the memory that this held, beyond the
parameters themselves, with 1.2 times the largest tensor plus 1 GB. On CPU parameters
are on the host too, so they are subtracted, each from its first piece on.

python -m experiments.parity.memory [--gigabytes 4] [--out memory.json]
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time
import zlib

import jax
import numpy as np

from vdm_jax import pretrained
from vdm_jax.pretrained import state_dict as sd
from vdm_jax.pretrained.formats import chunks, files, tensor
from vdm_jax.pretrained.tables.encoders import t5

GB, MB = 10**9, 10**6
EVERY = 0.005  # seconds between samples
CONFIG = dict(
  architectures=["T5EncoderModel"],
  model_type="t5",
  d_model=2048,
  d_kv=64,
  num_heads=32,
  d_ff=5120,
  vocab_size=32128,
  feed_forward_proj="gated-gelu",
)


def checkpoint(folder, config, max_shard):
  """Writes a folder, holding one tensor at a time; returns {name: shape and type}."""
  module = t5.TABLE.from_config(config)
  shapes = sd.flatten(t5.TABLE.abstract_params(module, {}))
  views = {k: np.broadcast_to(np.float32(0), x.shape) for k, x in shapes.items()}
  spec = dict(sd.published_arrays(module, t5.TABLE, views))
  files.write_safetensors(folder, "model", spec, values(spec), max_shard)
  (folder / "config.json").write_text(json.dumps(config))
  return spec


def values(spec):
  """Yields (name, array): random numbers seeded by the name."""
  for name, x in spec.items():
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    yield name, rng.random(x.shape, np.float32)


def size_of(config):
  """Bytes of the weights."""
  d, inner = config["d_model"], config["d_kv"] * config["num_heads"]
  layer = 4 * d * inner + 3 * d * config["d_ff"] + 2 * d
  return 4 * (config["num_layers"] * layer + config["vocab_size"] * d)


def status(field):
  """Bytes of a field of this process's memory, such as RssAnon or VmHWM."""
  text = pathlib.Path("/proc/self/status").read_text()
  return 1024 * int(text.split(f"{field}:")[1].split()[0])


class Samples(threading.Thread):
  """Looks at this process's memory all the time: (seconds, anonymous, parameters)."""

  def __init__(self):
    super().__init__(daemon=True)
    self.found, self.done, self.placed = [], threading.Event(), 0
    self.place, chunks.to_devices = chunks.to_devices, self.count

  def run(self):
    while not self.done.wait(EVERY):
      self.found.append((time.perf_counter(), status("RssAnon"), self.placed))

  def count(self, made, shape, dtype, sharding):
    """chunks.to_devices; a parameter counts from when its first chunk was read."""
    for_all = np.dtype(dtype).itemsize * int(np.prod(shape))

    def noted():
      for i, piece in enumerate(made):
        self.placed += 0 if i else for_all
        yield piece

    return self.place(noted(), shape, dtype, sharding)


def opened(folder):
  """Opens the folder and tells what that took, in bytes and seconds."""
  jax.block_until_ready(jax.numpy.zeros(1))  # the runtime's own memory
  before = status("RssAnon")
  pathlib.Path("/proc/self/clear_refs").write_text("5")  # the high-water mark, anew
  samples, start = Samples(), time.perf_counter()
  samples.start()
  module, params = pretrained.load(folder)
  jax.block_until_ready(params)
  seconds = time.perf_counter() - start
  samples.done.set()
  samples.join()
  times, anonymous, placed = np.array(samples.found).T
  held, total = anonymous - before - placed, samples.placed
  return dict(
    seconds=seconds,
    processor_seconds=time.process_time(),
    gigabytes_per_second=total / seconds / GB,
    parameters=total,
    held=int(held.max()),
    held_at_second=float(times[held.argmax()] - start),
    peak_anonymous=int(anonymous.max()),
    anonymous_before=before,
    high_water_of_kernel=status("VmHWM"),
    files_mapped=status("RssFile"),
    samples=len(times),
    longest_gap=float(np.diff(times).max()),
    wrong=[name for name, same in check(params, module) if not same],
  )


def check(params, module):
  """Yields (their name, whether ours is equal) for the last layer and the tokens."""
  back = sd.published_arrays(module, t5.TABLE, sd.flatten(params))
  for name, x in back:
    if name == "shared.weight" or f"block.{module.depth - 1}." in name:
      yield name, np.array_equal(x, next(values({name: x}))[1])


def measure(config, max_shard=GB, limit=chunks.LIMIT):
  """What opening a checkpoint of this config takes, in a process of its own."""
  with tempfile.TemporaryDirectory() as name:
    spec = checkpoint(pathlib.Path(name), config, max_shard)
    sizes = [tensor.num_bytes(x) for x in spec.values()]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    command = [
      sys.executable,
      "-m",
      __spec__.name,
      "--open",
      name,
      "--limit",
      str(limit),
    ]
    out = subprocess.run(command, env=environment, capture_output=True, text=True)
    if out.returncode:
      raise RuntimeError(f"opening failed:\n{out.stderr}")
    shards = len(list(pathlib.Path(name).glob("*.safetensors")))
  bytes_of = dict(checkpoint=sum(sizes), largest_tensor=max(sizes), shards=shards)
  return bytes_of | json.loads(out.stdout.splitlines()[-1])


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--gigabytes", type=float, default=4.0)
  parser.add_argument("--out", type=pathlib.Path)
  parser.add_argument("--open", help="a folder: only open it")
  parser.add_argument("--limit", type=int, default=chunks.LIMIT)
  arguments = parser.parse_args()
  if arguments.open:
    chunks.LIMIT = arguments.limit
    print(json.dumps(opened(arguments.open)))
    return
  fits = lambda depth: (
    size_of(CONFIG | {"num_layers": depth}) >= arguments.gigabytes * GB
  )
  depth = next(depth for depth in range(1, 1000) if fits(depth))
  found = measure(CONFIG | {"num_layers": depth}, limit=arguments.limit)
  bound = int(1.2 * found["largest_tensor"] + GB)
  found |= dict(bound=bound, holds=found["held"] <= bound and not found["wrong"])
  text = json.dumps(found, indent=2)
  print(text)
  if arguments.out:
    arguments.out.write_text(text + "\n")
  sys.exit(not found["holds"])


if __name__ == "__main__":
  main()
