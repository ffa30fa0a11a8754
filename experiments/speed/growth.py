"""How time and memory of Latte-S/2's forward pass grow with frames and with pixels.

python -m experiments.speed.growth [--quick] [--out=FOLDER]

Writes growth.json and growth.png: each point is a process of its own. The dashed line
is the analytic count of FLOPs through the first point.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys

import numpy as np

from experiments.speed import measure, rows, timing

FRAMES, SIDES = (8, 16, 32, 64, 128), (16, 24, 32, 48, 64)  # of latents
PIXELS = 8  # of a side of a latent
AT = dict(frames=16, side=32)  # what the other one is while one grows
QUICK = dict(depth=2, width=32, num_heads=2)
ROUNDS = 3
GROWING = {"frames": FRAMES, "side": SIDES}


def point(settings):
  """Seconds, FLOPs and bytes of one size, in this process."""
  timing.take_cores()
  import jax

  from experiments.speed import latte_ours

  call, arguments = latte_ours.forward_call(settings)
  compiled = call.lower(*arguments).compile()
  run = lambda: jax.block_until_ready(compiled(*arguments))
  run()
  times = [timing.seconds(run) for _ in range(ROUNDS)]
  return dict(
    seconds=statistics.median(times),
    flops=latte_ours.forward_flops(settings, None),
    peak=timing.status("VmHWM"),
    temporary=compiled.memory_analysis().temp_size_in_bytes,
  )


def fresh(settings):
  """`point` in a process of its own."""
  command = [sys.executable, "-m", "experiments.speed.growth", "--point"]
  environment = os.environ | {"JAX_PLATFORMS": "cpu"}
  out = subprocess.run(
    [*command, json.dumps(settings)],
    env=environment,
    stdout=subprocess.PIPE,
    text=True,
    check=True,
  )
  return json.loads(out.stdout.splitlines()[-1])


def slope(points, x, y):
  """The exponent of y as a power of x, by least squares in logarithms."""
  logs = lambda name: np.log([point[name] for point in points])
  return float(np.polyfit(logs(x), logs(y), 1)[0])


def measured(network):
  """{"frames", "side": {"points": [...], "slopes": {...}}}."""
  out = {}
  for axis, values in GROWING.items():
    points = []
    for value in values:
      settings = network | AT | {"batch": 1, axis: value}
      print(f"{axis}={value} ...", file=sys.stderr, flush=True)
      points.append({axis: value} | fresh(settings))
    slopes = {y: slope(points, axis, y) for y in ("seconds", "flops", "temporary")}
    out[axis] = dict(points=points, slopes={k: round(v, 3) for k, v in slopes.items()})
  return out


def chart(path, found):
  """Four panels: seconds and bytes, over frames and over pixels, in logarithms."""
  import matplotlib

  matplotlib.use("Agg")
  from matplotlib import pyplot

  panels = [(axis, y) for y in ("seconds", "temporary") for axis in GROWING]
  labels = {"seconds": "seconds", "temporary": "temporary memory, GB"}
  figure, grid = pyplot.subplots(2, 2, figsize=(9, 6.5))
  for axes, (axis, y) in zip(grid.flat, panels, strict=True):
    points, slopes = found[axis]["points"], found[axis]["slopes"]
    x = np.array([p[axis] for p in points]) * (PIXELS if axis == "side" else 1)
    values = np.array([p[y] for p in points]) / (1e9 if y == "temporary" else 1)
    flops = np.array([p["flops"] for p in points])
    axes.loglog(x, values, "o-", label=f"measured, slope {slopes[y]:.2f}")
    analytic = values[0] * flops / flops[0]
    axes.loglog(x, analytic, "--", label=f"FLOPs, slope {slopes['flops']:.2f}")
    axes.set_xlabel("frames of 256 x 256" if axis == "frames" else "pixels of a side")
    axes.set_ylabel(labels[y])
    axes.set_xticks(x, [str(n) for n in x], minor=False)
    axes.xaxis.minorticks_off()
    axes.legend(fontsize=8)
  figure.tight_layout()
  figure.savefig(path, dpi=110)
  pyplot.close(figure)


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--quick", action="store_true", help="a toy network")
  parser.add_argument("--out", type=pathlib.Path)
  parser.add_argument("--point", type=json.loads, help="settings of one size")
  flags = parser.parse_args()
  if flags.point:
    print(json.dumps(point(flags.point)))
    return
  out = flags.out or (measure.QUICK if flags.quick else measure.HERE)
  out.mkdir(parents=True, exist_ok=True)
  network = QUICK if flags.quick else rows.SIZES["S"]
  found = measured(network)
  found |= dict(network=network, machine=timing.machine())
  measure.write(out / "growth.json", found)
  chart(out / "growth.png", found)
  for axis in GROWING:
    print(axis, json.dumps(found[axis]["slopes"]))


if __name__ == "__main__":
  main()
