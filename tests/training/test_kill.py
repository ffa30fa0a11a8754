"""A run that is killed and started again ends bit-equal to one that was not."""

import os
import random
import signal
import time

import jax
import numpy as np

from tests.support import child, suite
from vdm_jax import checkpoint, log

STEPS, PATIENCE = 240, 1800.0


def start(workdir):
  """The run; compiled once for all starts."""
  once = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
  module = "tests.training.train_tiny"
  return child.start(module, workdir, STEPS, devices=1, **once)


def wait_for(condition, process):
  end = time.monotonic() + PATIENCE
  while time.monotonic() < end:
    if condition():
      return
    if process.poll() is not None:
      raise AssertionError(f"ended too early:\n{process.communicate()[1]}")
    time.sleep(0.0005)
  raise AssertionError(f"nothing happened for {PATIENCE} s")


def partial(folder):
  """Folders of saves that are under way, or were when their process was killed."""
  names = os.listdir(folder) if folder.is_dir() else []
  return {name for name in names if "tmp" in name}


def kill(workdir, rng, kind):
  """Starts the run and kills it: at its start, at a step, or during a save.

  Returns whether a save was torn.
  """
  folder = workdir / "checkpoints"
  done, torn = set(checkpoint.saved_steps(folder)), partial(folder)
  process = start(workdir)
  try:
    if kind == "start":
      time.sleep(rng.uniform(0.2, 1.2))
    elif kind == "step":
      wait_for(lambda: set(checkpoint.saved_steps(folder)) - done, process)
      time.sleep(rng.uniform(0.0, 0.1))
    else:
      wait_for(lambda: partial(folder) - torn, process)
      time.sleep(rng.uniform(0.0, 0.03))
    assert process.poll() is None, process.communicate()[1]
  finally:
    process.kill()
    process.communicate()
  assert process.returncode == -signal.SIGKILL
  return bool(partial(folder))


def test_killed_at_random_moments_it_ends_bit_equal(tmp_path):
  rng = random.Random(20)
  killed, whole = tmp_path / "killed", tmp_path / "whole"
  reference = start(whole)
  many, least = (["save"] * 5 + ["step"] * 2 + ["start"], 2), (["save", "step"], 0)
  kinds, tears = many if suite.is_complete() else least
  rng.shuffle(kinds)
  torn = [kill(killed, rng, kind) for kind in kinds]
  last = start(killed)
  for process in (reference, last):
    child.output(process, timeout=PATIENCE)

  for part in ("params", "ema", "opt_state"):
    saved = (checkpoint.restore_part(f / "checkpoints", part) for f in (killed, whole))
    jax.tree.map(np.testing.assert_array_equal, *saved)
  assert sum(torn) >= tears  # some kills did tear a save
  assert not partial(killed / "checkpoints")
  rows = [log.read_log(folder / "log.jsonl") for folder in (killed, whole)]
  steps = list(range(10, STEPS + 1, 10))
  for got in rows:
    assert [row["step"] for row in got] == steps
  losses = [[row["loss"] for row in got] for got in rows]
  assert losses[0] == losses[1]
  assert np.mean(losses[0][-3:]) < losses[0][0]
