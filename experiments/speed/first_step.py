"""From the start of a process to the end of its first training step, by its parts.

python -m experiments.speed.first_step ours|torch SETTINGS
"""

import json
import os
import subprocess
import sys
import tempfile
import time

from experiments.speed import rows, timing

COLD, WARM, FLAT = 20.0, 6.0, 1.2


class Clock:
  """Seconds since the parent started this process, part by part."""

  def __init__(self):
    self.parts, self._last = {}, float(os.environ["STARTED"])

  def part(self, name):
    now = time.time()
    self.parts[name] = now - self._last
    self._last = now


def ours(settings):
  """Import, first state, trace, compile, step; as programs/train.py does them."""
  clock = Clock()
  import jax

  from experiments.speed import inputs, latte_ours
  from vdm_jax import sharding
  from vdm_jax.programs import train  # noqa: F401, what a training run imports
  from vdm_jax.training import optimizer
  from vdm_jax.training import state as state_lib
  from vdm_jax.training import step as step_lib

  clock.part("import")
  task = latte_ours.Denoising(latte_ours.network(settings))
  batch = inputs.latte(settings)
  mesh, rules = sharding.make_mesh(latte_ours.MESH, jax.devices()[:1]), latte_ours.RULES
  tx = optimizer.adamw(learning_rate=inputs.RATE, clip=None)
  spec = {k: jax.ShapeDtypeStruct(x.shape, x.dtype) for k, x in batch.items()}
  key = jax.random.key(0)
  state, shardings = state_lib.create_state_and_shardings(
    task, tx, spec, key, mesh, rules
  )
  jax.block_until_ready(state)
  clock.part("first state")
  step = step_lib.make_step(task.loss, tx, inputs.DECAY, shardings=shardings)
  step = step_lib.compile_step(step, shardings, mesh, rules)
  batch = sharding.put_batch(batch, mesh, rules)
  lowered = step.lower(state, batch, key)
  clock.part("trace")
  compiled = lowered.compile()
  clock.part("compile")
  jax.block_until_ready(compiled(state, batch, key))
  clock.part("step")
  return clock.parts


def torch(settings):
  """Import, network, step: eager, so that nothing is compiled."""
  clock = Clock()
  from experiments.speed import latte_torch

  clock.part("import")
  latte_torch.torch.set_num_threads(timing.take_cores())
  contenders, _ = latte_torch.train(settings, ("torch",), None)
  clock.part("first state")
  contenders["torch"].run()
  clock.part("step")
  return clock.parts


def start(name, settings, cache):
  """{"import", ..., "total"} of a fresh process."""
  command = [sys.executable, "-m", __name__, name, json.dumps(settings)]
  environment = os.environ | {
    "STARTED": repr(time.time()),
    "JAX_COMPILATION_CACHE_DIR": str(cache),
    # All of it is kept, also what compiles in less than a second.
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
  }
  out = subprocess.run(command, env=environment, capture_output=True, text=True)
  if out.returncode:
    raise RuntimeError(f"{name} failed:\n{out.stderr[-3000:]}")
  parts = json.loads(out.stdout.splitlines()[-1])
  return parts | {"total": sum(parts.values())}


def measure(settings, repeats, folder):
  """Ours with an empty cache and with a full one, and torch; deeper ones, too."""
  timing.take_cores()
  settings = dict(settings)
  depths = settings.pop("depths")
  found = {}
  for number in range(min(repeats, timing.FEW)):
    # Only the smallest is started more than once: nothing else has a time to reach.
    for depth in depths if number == 0 else depths[:1]:
      here = settings | {"depth": depth}
      with tempfile.TemporaryDirectory(dir=folder) as cache:
        for name in ("ours, cold", "ours, warm"):
          found.setdefault(f"{name}, depth {depth}", []).append(
            start("ours", here, cache)
          )
        found.setdefault(f"torch, depth {depth}", []).append(
          start("torch", here, cache)
        )
  middle = {
    name: {part: timing.spread([x[part] for x in many]) for part in many[0]}
    for name, many in found.items()
  }
  first, last = depths[0], depths[-1]
  total = lambda kind: middle[f"ours, {kind}, depth {first}"]["total"]["median"]
  compiling = lambda depth: sum(
    middle[f"ours, cold, depth {depth}"][part]["median"]
    for part in ("trace", "compile")
  )
  return dict(
    parts=middle,
    claims=[
      rows.claim("seconds, cold", total("cold"), COLD),
      rows.claim("seconds, with the persistent cache", total("warm"), WARM),
      rows.claim(
        f"trace and compile, depth {last} over {first}",
        compiling(last) / compiling(first),
        FLAT,
      ),
    ],
  )


def main():
  _, name, settings = sys.argv
  print(json.dumps({"ours": ours, "torch": torch}[name](json.loads(settings))))


if __name__ == "__main__":
  main()
