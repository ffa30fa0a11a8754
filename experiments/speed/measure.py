"""Our speed beside torch's on this machine's CPU, row by row.

python -m experiments.speed.measure [--rows=forward,train] [--repeats=7] [--again]

Writes speed.json as rows finish, speed.png and the tables of README.md, which it also
prints. A row that stands there with the same settings is not measured again. `--quick`
does everything at toy sizes, in a few minutes and in another folder.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

from experiments.speed import mkl, rows, table, timing

HERE = pathlib.Path(__file__).parent
QUICK = pathlib.Path("runs/speed")
OF_PEAK = 0.8  # the least part of the matrix peak that a forward pass is to reach


def child(*arguments, variables=()):
  """What experiments.speed.contest prints, run in a process of its own."""
  command = [sys.executable, "-m", "experiments.speed.contest", *arguments]
  environment = os.environ | {"JAX_PLATFORMS": "cpu"} | dict(variables)
  out = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
  if out.returncode:
    raise RuntimeError(f"{' '.join(arguments)} failed; its message stands above.")
  return json.loads(out.stdout.splitlines()[-1])


def measure(name, row, flags):
  """The row's entry of speed.json."""
  start = time.monotonic()
  with tempfile.TemporaryDirectory() as folder:
    call = [name, f"--folder={folder}", f"--repeats={flags.repeats}"]
    call += ["--quick"] if flags.quick else []
    contest = isinstance(row, rows.Contest)
    variables = mkl.fast(folder) if contest and row.mkl else {}
    found = child(*call, variables=variables)
    if contest:
      # Not under other variables: they change no memory.
      names = () if row.mkl else (row.names[0], "ours")
      found["memory"] = {who: child(*call, f"--alone={who}") for who in names}
      found["claims"] = claims(row, found)
  found["minutes"] = round((time.monotonic() - start) / 60, 2)
  return dict(title=row.title) | found


def claims(row, found):
  """Time, memory and, for a forward pass, the part of the matrix peak."""
  middle = {name: x["median"] for name, x in found["seconds"].items()}
  best = min((n for n in row.against if n in middle), key=middle.get)
  out = [rows.claim(f"time over {best}'s", middle["ours"] / middle[best], row.target)]
  if row.peak:
    rate = found["flops"] / middle["ours"] / 1e9
    part = rate / max(found["matmul"].values())
    least = OF_PEAK if row.target else None
    out.append(rows.claim("of the matrix peak", part, least, most=False))
  if found["memory"]:
    theirs, ours = (found["memory"][n]["peak"] for n in (row.names[0], "ours"))
    out.append(rows.claim(f"memory over {row.names[0]}'s", ours / theirs, 1.0))
  return out


def write(path, value):
  """Writes JSON whole or not at all."""
  partial = path.with_suffix(".partial")
  partial.write_text(json.dumps(value, indent=1) + "\n")
  os.replace(partial, path)


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--rows", default="", help="names, or how they begin, by commas")
  parser.add_argument("--repeats", type=int, default=7)
  parser.add_argument("--quick", action="store_true", help="toy sizes")
  parser.add_argument("--again", action="store_true", help="also rows that stand")
  parser.add_argument("--out", type=pathlib.Path)
  flags = parser.parse_args()
  out = flags.out or (QUICK if flags.quick else HERE)
  out.mkdir(parents=True, exist_ok=True)
  path = out / "speed.json"
  stands = json.loads(path.read_text()) if path.is_file() else {"rows": {}}
  for name, row in rows.chosen([n for n in flags.rows.split(",") if n]).items():
    settings = row.quick if flags.quick else row.settings
    settings = json.loads(json.dumps(settings)) | {"repeats": flags.repeats}
    if not flags.again and stands["rows"].get(name, {}).get("settings") == settings:
      continue
    print(f"{name} ...", file=sys.stderr, flush=True)
    found = dict(settings=settings) | measure(name, row, flags)
    stands["machine"] = timing.machine()
    stands["rows"] = table.in_order(stands["rows"] | {name: found}, rows.ROWS)
    write(path, stands)
  print(table.text(stands))
  table.into(out / "README.md", table.text(stands))
  table.chart(out / "speed.png", stands)


if __name__ == "__main__":
  main()
