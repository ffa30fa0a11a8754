"""Time and memory of contenders that do the same work with the same numbers.

In one process they take turns, so that a slow minute of the machine falls on all alike.
"""

import dataclasses
import os
import pathlib
import platform
import time
from collections.abc import Callable
from importlib import metadata

import numpy as np

CORES = 2  # and threads of each contender
SLOW, FEW = 10.0, 3  # a contender that takes more than SLOW seconds: so many rounds
SIDES = (2048, 4096)  # of the square matrices whose product is the peak
PACKAGES = ("jax", "flax", "torch", "diffusers", "av", "numpy")


@dataclasses.dataclass(frozen=True)
class Contender:
  """Attributes:
  run: () -> result, when the work is done.
  read: result -> numpy array, in the layout that all contenders share.
  """

  run: Callable
  read: Callable = np.asarray


def answers(contenders, calls):
  """({name: what each of its first calls gave}, {name: why it failed}).

  Args:
    calls: of each, one after the other; of a training step each call is another step.
      They are also what warms up: nothing is timed before.
  """
  found, failed = {}, {}
  for name, contender in contenders.items():
    try:
      found[name] = [np.asarray(contender.read(contender.run())) for _ in range(calls)]
    except Exception as error:  # a compiler has many ways to fail
      if "compile" not in name:
        raise
      failed[name] = f"{type(error).__name__}: {str(error)[:400]}"
  return found, failed


def difference(found):
  """The largest difference to the first contender, in units of its largest value."""
  (_, wanted), *others = found.items()
  worst = 0.0
  for name, given in others:
    for x, y in zip(given, wanted, strict=True):
      if x.shape != y.shape or not np.isfinite(x).all():
        raise ValueError(f"{name} gave shape {x.shape}, wanted {y.shape} and finite.")
      top = max(1.0, float(np.abs(y).max()))
      worst = max(worst, float(np.abs(x - y).max()) / top)
  return worst


def alternate(runs, repeats):
  """{name: seconds of each round}, every contender once in each round.

  Args:
    runs: {name: function that returns when its work is done}; all of them are warm.
    repeats: rounds; FEW where one contender takes more than SLOW seconds.
  """
  found = {name: [] for name in runs}
  done = 0
  while done < repeats:
    for name, run in runs.items():
      found[name].append(seconds(run))
    done += 1
    if max(times[0] for times in found.values()) > SLOW:
      repeats = min(repeats, FEW)
  return found


def seconds(run):
  """What one call takes."""
  start = time.perf_counter()
  run()
  return time.perf_counter() - start


def spread(values):
  """{"median", "quartiles", "all"} of some figures, with four digits."""
  low, median, high = np.percentile(values, (25, 50, 75))
  short = lambda x: float(f"{x:.4g}")
  return dict(
    median=short(median),
    quartiles=[short(low), short(high)],
    all=[short(x) for x in values],
  )


def products(sides=SIDES):
  """{name: (run, FLOPs)} of products of square matrices, torch's and XLA's."""
  import jax
  import torch

  times = jax.jit(lambda a: a @ a)
  out = {}
  for side in sides:
    theirs = torch.randn(side, side)
    ours = jax.numpy.asarray(theirs.numpy())
    work = 2 * side**3
    out[f"matmul {side}, torch"] = (lambda a=theirs: a @ a), work
    out[f"matmul {side}, XLA"] = (lambda a=ours: times(a).block_until_ready()), work
  return out


def take_cores():
  """Keeps this process on CORES of its cores; returns how many it has."""
  cores = sorted(os.sched_getaffinity(0))[:CORES]
  os.sched_setaffinity(0, cores)
  return len(cores)


def status(field):
  """Bytes of a field of this process's memory: VmHWM is the most it ever held."""
  text = pathlib.Path("/proc/self/status").read_text()
  return 1024 * int(text.split(f"{field}:")[1].split()[0])


def machine():
  """What the figures were measured on and with."""
  text = pathlib.Path("/proc/cpuinfo").read_text()
  model = next((x for x in text.splitlines() if x.startswith("model name")), ":")
  memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
  return dict(
    cpu=model.partition(":")[2].strip(),
    vectors=[x for x in ("avx2", "avx512f", "avx512_bf16") if x in text],
    gigabytes=round(memory / 1e9, 1),
    threads=min(CORES, len(os.sched_getaffinity(0))),
    python=platform.python_version(),
    versions={name: metadata.version(name) for name in PACKAGES},
  )
