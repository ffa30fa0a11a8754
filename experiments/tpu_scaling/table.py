"""Latte S, B, L and XL on 1 to 256 TPU chips and 8 to 64 H100, compiled ahead of time.

python experiments/tpu_scaling/table.py             all rows that are not there yet
python experiments/tpu_scaling/table.py XL v5e      those of a size, of a chip
python experiments/tpu_scaling/table.py --draw      README and chart of the rows there

One compilation at a time; each row is written when it is done, so that the same command
goes on where an earlier one stopped. Delete table.json to begin again.
"""

import json
import os
import pathlib
import sys
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent))

from configs import latte  # noqa: E402
from vdm_jax import log  # noqa: E402
from vdm_jax.aot import topology as topologies  # noqa: E402
from vdm_jax.models.transformer import video_dit  # noqa: E402
from vdm_jax.programs import compile as program  # noqa: E402

FLAT = ("1x1", "2x2", "4x4", "8x8", "16x16")
TOPOLOGIES = {
  "v5e": FLAT,
  "v5p": ("1x1x1", "2x2x1", "2x2x4", "4x4x4", "4x8x8"),
  "v6e": FLAT,
  "h100": ("8", "2x8", "4x8", "8x8"),
}
CLIPS = 4  # on each device
# Devices over which the state is split: the smaller models have room for all of it.
FSDP = {"S": 1, "B": 1, "L": 16, "XL": 16}
TABLE = HERE / "table.json"
BEGIN, END = "<!-- table -->", "<!-- end -->"


def names():
  """[(size, topology)] of all rows, the smallest first."""
  return [
    (size, f"{chip}:{shape}")
    for size in video_dit.SIZES
    for chip, shapes in TOPOLOGIES.items()
    for shape in shapes
  ]


def row(size, name):
  """One compilation, as the table keeps it."""
  found = topologies.get_topology(name)
  devices = len(found.devices)
  within = devices // found.num_slices  # the state is not split over a slow network
  fsdp = min(FSDP[size], within)
  flags = {f"network.{k}": v for k, v in video_dit.SIZES[size].items()} | {
    "network.dtype": "bfloat16",
    "compiler": "auto",
    "mesh.data": devices // fsdp,
    "mesh.fsdp": fsdp,
    "train.loader.batch_size": CLIPS * devices,
  }
  cfg = program.override_fields(latte.get_config("ucf101"), flags)
  with tempfile.TemporaryDirectory() as place:
    report = program.run(cfg, pathlib.Path(place), topology=name)
  moved = {True: 0.0, False: 0.0}
  for collective in report.get("collectives", ()):
    moved[collective["network"]] += collective["bytes"]
  return {
    "model": size,
    "topology": name,
    "devices": devices,
    "mesh": {k: n for k, n in report["mesh"].items() if n > 1},
    "clips_per_device": report["clips_per_device"],
    "fits": report["memory"]["fits"],
    "total": report["memory"]["total"],
    "headroom": report["memory"]["headroom"],
    "near": moved[False],
    "far": moved[True],
    "bound": report.get("bound"),
    "binds": report.get("binds"),
    "utilisation": report.get("utilisation"),
    "seconds": report["seconds"],
    "versions": report["versions"],
  }


def read():
  return json.loads(TABLE.read_text()) if TABLE.exists() else []


def write(path, text):
  partial = path.with_name(f".{path.name}.partial")
  partial.write_text(text)
  os.replace(partial, path)


def shown(row):
  """A row for a reader."""
  bound = row["bound"]
  ms = lambda key: f"{1e3 * bound[key]:.0f}" if bound else "-"
  return {
    "model": row["model"],
    "chips": row["topology"],
    "mesh": " x ".join(f"{k} {n}" for k, n in row["mesh"].items()) or "1",
    "clips": f"{row['clips_per_device']:g}",
    "fits": "yes" if row["fits"] else "no",
    "head-room GiB": f"{row['headroom'] / 2**30:.1f}",
    "ICI MB": f"{row['near'] / 1e6:.0f}",
    "DCN MB": f"{row['far'] / 1e6:.0f}",
    "products ms": ms("compute"),
    "HBM ms": ms("hbm"),
    "ICI ms": ms("ici"),
    "DCN ms": ms("dcn"),
    "binds": row["binds"] or "-",
    "compiled s": f"{row['seconds']['compile']:.0f}",
  }


def draw(rows):
  """The table in README.md, and chart.png."""
  order = {name: i for i, name in enumerate(names())}
  rows = sorted(rows, key=lambda r: order[r["model"], r["topology"]])
  cells = [shown(r) for r in rows]
  if not cells:
    return
  heads = list(cells[0])
  lines = [
    "| " + " | ".join(heads) + " |",
    "| " + " | ".join("---" for _ in heads) + " |",
  ]
  lines += ["| " + " | ".join(cell.values()) + " |" for cell in cells]
  page = (HERE / "README.md").read_text()
  before, after = page.split(BEGIN)[0], page.split(END)[1]
  write(
    HERE / "README.md", before + BEGIN + "\n" + "\n".join(lines) + "\n" + END + after
  )
  chart(rows)


def chart(rows):
  from matplotlib.figure import Figure

  figure = Figure(figsize=(9, 3.5), dpi=120, layout="constrained")
  axes = figure.subplots(1, len(video_dit.SIZES), sharey=True)
  for panel, size in zip(axes, video_dit.SIZES, strict=True):
    for chip in TOPOLOGIES:
      mine = [
        r
        for r in rows
        if r["model"] == size and r["topology"].startswith(chip) and r["bound"]
      ]
      rate = [CLIPS * r["devices"] / r["bound"]["time"] for r in mine]
      panel.plot([r["devices"] for r in mine], rate, marker=".", label=chip)
    panel.set(title=size, xscale="log", yscale="log", xlabel="devices")
    panel.grid(alpha=0.3)
  axes[0].set_ylabel("clips a second, at best")
  axes[0].legend(fontsize=7)
  figure.savefig(HERE / "chart.png")


def main(wanted):
  rows = read()
  there = {(r["model"], r["topology"]) for r in rows}
  for size, name in [] if "--draw" in wanted else names():
    chip = name.partition(":")[0]
    if (size, name) in there or not {w for w in wanted} <= {size, chip, name}:
      continue
    try:
      rows.append(row(size, name))
    except ModuleNotFoundError as error:
      print(f"{size} on {name} is left out: {error}")
      continue
    write(TABLE, json.dumps(rows, indent=1))
    draw(rows)
  draw(rows)
  print(log.format_table([shown(r) for r in rows]))


if __name__ == "__main__":
  main(sys.argv[1:])
