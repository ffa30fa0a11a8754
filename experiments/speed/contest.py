"""A row of the contest in this process: all contenders in turn, or one of them alone.

python -m experiments.speed.contest NAME --folder=FOLDER [--alone=ours] [--quick]
"""

import argparse
import json

from experiments.speed import rows, timing


def together(row, settings, repeats, folder):
  """{"seconds", "error", "flops", ...} of contenders that take turns."""
  import torch

  threads = timing.take_cores()
  found, weights = row.theirs(settings, row.names, folder)
  found["ours"] = row.ours(settings, weights, folder)
  torch.set_num_threads(threads)  # here: what is imported above may set another number
  given, failed = timing.answers(found, row.calls)
  error = timing.difference(given)
  if error > rows.BOUND:
    raise ValueError(f"{row.title}: they differ by {error:.1e}, over {rows.BOUND}.")
  runs = {name: found[name].run for name in given}
  products = timing.products() if row.peak else {}
  for run, _ in products.values():
    run()
  times = timing.alternate(
    runs | {k: run for k, (run, _) in products.items()}, min(repeats, row.rounds)
  )
  spreads = {name: timing.spread(values) for name, values in times.items()}
  out = dict(
    threads=threads,
    rounds=len(times["ours"]),
    torch_threads=torch.get_num_threads(),
    error=float(f"{error:.2g}"),
    failed=failed,
    flops=row.flops(settings, folder),
    seconds={name: spreads[name] for name in runs},
  )
  if products:
    rates = {k: work / spreads[k]["median"] / 1e9 for k, (_, work) in products.items()}
    out["matmul"] = {k: round(rate, 1) for k, rate in rates.items()}
  return out


def alone(row, settings, name, folder):
  """The memory of this process, in which one contender works alone."""
  threads = timing.take_cores()
  if name == "ours":
    import jax

    from vdm_jax.programs import train  # noqa: F401, as any program of ours

    jax.block_until_ready(jax.numpy.zeros(1))
    imports = timing.status("VmRSS")
    contender = row.ours(settings, None, folder)
  else:
    import diffusers  # noqa: F401
    import torch

    torch.set_num_threads(threads)
    imports = timing.status("VmRSS")
    contenders, _ = row.theirs(settings, (name,), folder)
    contender = contenders[name]
  for _ in range(row.calls):  # a second step has the optimizer's moments
    contender.run()
  return dict(peak=timing.status("VmHWM"), imports=imports)


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("name", choices=list(rows.ROWS))
  parser.add_argument("--folder", required=True)
  parser.add_argument("--repeats", type=int, default=7)
  parser.add_argument("--alone")
  parser.add_argument("--quick", action="store_true")
  flags = parser.parse_args()
  row = rows.ROWS[flags.name]
  settings = row.quick if flags.quick else row.settings
  if flags.alone:
    light = {} if flags.quick else row.light
    found = alone(row, settings | light, flags.alone, flags.folder)
  elif isinstance(row, rows.Contest):
    found = together(row, settings, flags.repeats, flags.folder)
  else:
    found = row.measure(settings, flags.repeats, flags.folder)
  print(json.dumps(found))


if __name__ == "__main__":
  main()
