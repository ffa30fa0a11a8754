"""The devices of absent hardware, by name: v5e:4x4, v5p:2x2x2, h100:2x8.

A TPU's name gives the shape of its slice, in chips; a GPU's the hosts and the GPUs of
each. TPU programs are compiled by libtpu, GPU programs by JAX's CUDA plugin; neither
touches a device. Recipes: https://docs.jax.dev/en/latest/aot.html and MaxText's
train_compile.
"""

import contextlib
import dataclasses
import difflib
import importlib.util
import math
import os
import re
from typing import Any

from vdm_jax.aot import chips

# Slices that one can rent (cloud.google.com/tpu/docs), and one chip of them.
FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
DEEP = (
  *("1x1x1", "2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8"),
  *("8x8x8", "8x8x16"),
)
HOSTS = ("1", "2", "4", "8", "1x8", "2x8", "4x8", "8x8", "16x8", "32x8")
SHAPES = {
  "v4": DEEP[1:],
  "v5e": FLAT,
  "v5p": DEEP,
  "v6e": FLAT,
  "tpu7x": DEEP[1:],
  "h100": HOSTS,
}

# libtpu wants to know on which machine it is; without the second, a lock file that a
# killed process left behind ends the program.
ENVIRONMENT = {
  "TPU_SKIP_MDS_QUERY": "1",
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "true",
  "TPU_ACCELERATOR_TYPE": "v5e-8",
  "TPU_WORKER_HOSTNAMES": "localhost",
  "TPU_WORKER_ID": "0",
}

# An H100 as XLA's compiler asks for it (GpuTargetConfigProto), from NVIDIA's data
# sheet and the CUDA device properties of the SXM5 card.
H100 = """
gpu_device_info {
  cuda_compute_capability { major: 9 }
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  threads_per_core_limit: 2048
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  memory_bandwidth: 3352320000000
  l2_cache_size: 52428800
  device_memory_size: 84942979072
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
runtime_version { major: 13 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""


@dataclasses.dataclass(frozen=True)
class Topology:
  """Devices that one can compile for, and not run on.

  Attributes:
    name: such as "v5e:4x4".
    chip: chips.Chip, the rates of each device.
    devices: of all slices, in JAX's order.
    num_slices: parts joined by the slow network: TPU slices, or GPU hosts.
  """

  name: str
  chip: chips.Chip
  devices: tuple[Any, ...]
  num_slices: int

  def slice_index(self, device):
    """The index, an int, of the slice that a device of the topology is in."""
    if self.chip.platform == "cuda":
      return device.process_index
    return getattr(device, "slice_index", 0) or 0


def get_topology(name, num_slices=1):
  """The Topology (name, chip, devices, num_slices) of absent hardware.

  Args:
    name: chip and shape: "v5e:4x4", "v5p:2x2x2", "h100:2x8" (hosts x GPUs) ...
    num_slices: number of TPU slices of that shape.

  Raises:
    ValueError: there is no such chip or shape; the nearest ones are named.
    ModuleNotFoundError: the compiler for it is not installed.
  """
  kind, shape = parse_chip_and_sizes(name)
  if num_slices < 1 or (num_slices > 1 and kind == "h100"):
    raise ValueError(
      f"num_slices={num_slices}: a TPU has one slice or more; the hosts of GPUs stand "
      "in the name, h100:2x8."
    )
  chip = chips.CHIPS[kind]
  make = _gpus if chip.platform == "cuda" else _tpus
  devices = tuple(make(kind, shape, num_slices))
  slices = shape[0] if chip.platform == "cuda" else num_slices
  return Topology(name, chip, devices, slices)


def parse_chip_and_sizes(name):
  """(chip, sizes) of a topology's name: ("v5e", (4, 4)) of "v5e:4x4".

  Raises:
    ValueError: there is no such topology; the nearest ones are named.
  """
  known = [f"{kind}:{shape}" for kind, shapes in SHAPES.items() for shape in shapes]
  if name not in known:
    close = difflib.get_close_matches(name, known, 3, cutoff=0.4)
    kind = name.partition(":")[0]
    of_kind = [n for n in known if n.startswith(f"{kind}:")]
    near = sorted(of_kind, key=lambda n: -_likeness(n, name))[:3] or close or known[:3]
    raise ValueError(
      f"topology {name!r} is unknown; the nearest are {', '.join(near)}. There are "
      f"{', '.join(SHAPES)}, and for instance {kind if of_kind else 'v5e'}:"
      f"{', '.join(SHAPES[kind if of_kind else 'v5e'])}."
    )
  kind, _, shape = name.partition(":")
  sizes = tuple(int(n) for n in shape.split("x"))
  return kind, (1, *sizes) if kind == "h100" and len(sizes) == 1 else sizes


def _likeness(known, name):
  """How near two names of one kind are: by their number of chips, then by letters."""
  size = lambda n: math.prod(int(x) for x in re.findall(r"\d+", n.partition(":")[2]))
  try:
    apart = abs(math.log2(size(known)) - math.log2(max(size(name), 1)))
  except ValueError:
    apart = 99.0
  return difflib.SequenceMatcher(None, known, name).ratio() - apart


def _tpus(kind, shape, num_slices):
  if importlib.util.find_spec("libtpu") is None:
    raise ModuleNotFoundError(
      "Compiling for a TPU needs libtpu, its compiler; pip install 'vdm_jax[tpu]'."
    )
  from jax.experimental import topologies

  options = {"num_slices": num_slices} if num_slices > 1 else {}
  if kind == "v4":
    options["chip_config_name"] = "megacore"
  if math.prod(shape) == 1:
    options["chips_per_host_bounds"] = (1, 1, 1)
  layout = f"{kind}:{'x'.join(map(str, shape))}"
  with _environment(ENVIRONMENT):
    found = topologies.get_topology_desc(
      platform="tpu", topology_name=layout, **options
    )
  return found.devices


def _gpus(kind, shape, num_slices):
  del kind, num_slices
  if not has_cuda_plugin():
    raise ModuleNotFoundError(
      "Compiling for a GPU needs JAX's CUDA plugin; pip install 'vdm_jax[cuda]'. No "
      "GPU and no CUDA is asked for."
    )
  from jax.experimental import topologies

  hosts, each = shape
  found = topologies.get_topology_desc(
    platform="cuda", target_config=H100, topology=f"1x{hosts}x{each}"
  )
  return found.devices


def has_cuda_plugin():
  """Whether JAX's CUDA plugin, which compiles for GPUs, is installed."""
  plugins = importlib.util.find_spec("jax_plugins")
  return bool(plugins) and bool(importlib.util.find_spec("jax_plugins.xla_cuda13"))


@contextlib.contextmanager
def _environment(values):
  """Sets what is not set yet, for as long as libtpu is loaded."""
  added = {k: v for k, v in values.items() if k not in os.environ}
  os.environ.update(added)
  try:
    yield
  finally:
    for name in added:
      del os.environ[name]
