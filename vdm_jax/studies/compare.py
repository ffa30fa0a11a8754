"""Compares the arms of an experiment in a table and two plots."""

import json
import math

from vdm_jax import log
from vdm_jax.metrics import score
from vdm_jax.programs import job as job_lib

POINTS = 40  # of a curve, at most about twice as many: means of rows of the log


def run(job, *, arms, metrics, plot="mse", curves=None, folder="comparison"):
  """Compares what arms of an experiment reached, in a table and two plots.

  Writes <workdir>/<folder>: scores.json, table.md, scores.png and loss.png.

  Args:
    job: programs.job.Job: workdir.
    arms: {label: {"metrics": the file that `evaluate` wrote, "log": the folder of the
      training stage}}, both under the workdir; all measured by one protocol.
    metrics: names of metrics, the columns of the table.
    plot: name of the logged scalar in loss.png.
    curves: labels of the arms in loss.png; None: all.
  """
  out = job.workdir / folder
  measured = {
    label: read_metrics(job.workdir / arm["metrics"]) for label, arm in arms.items()
  }
  real = comparable_real_scores(measured, metrics)
  table = {
    label: {name: scores[name]["samples"].value for name in metrics}
    for label, scores in measured.items()
  }
  chosen = {
    label: bin_means(log.read_log(job.workdir / arm["log"] / "log.jsonl"), plot)
    for label, arm in arms.items()
    if curves is None or label in curves
  }
  out.mkdir(parents=True, exist_ok=True)
  job_lib.write_json(out / "scores.json", {**table, "real clips": real})
  lines = markdown_table(table | {"real clips": real}, metrics)
  (out / "table.md").write_text("\n".join(lines) + "\n")
  plot_scores(out / "scores.png", table, real)
  plot_curves(out / "loss.png", chosen, plot)
  job.print(f"{out}: scores.json, table.md and pictures")
  print("\n" + "\n".join(lines) + "\n", flush=True)


def read_metrics(path):
  """{metric: {"samples": Score, "real": Score or None}} of a file metrics.json.

  A metrics.score.Score has a value, a float, and a protocol, how it was measured.
  """
  if not path.is_file():
    raise FileNotFoundError(f"There are no measurements in {path}; evaluate first.")
  return {
    name: {side: score.from_json(entry[side]) for side in ("samples", "real")}
    for name, entry in json.loads(path.read_text()).items()
  }


def comparable_real_scores(measured, metrics):
  """{metric: float}, the values of real clips, if all arms were measured alike.

  Args:
    measured: {label of an arm: {metric: {"samples": Score, "real": Score or None}}}.
    metrics: names of metrics; NaN is returned for one without real clips.

  Raises:
    KeyError: an arm lacks a metric.
    ProtocolMismatchError: two arms were measured by different protocols.
  """
  first = next(iter(measured.values()))
  for label, scores in measured.items():
    absent = sorted(set(metrics) - set(scores))
    if absent:
      raise KeyError(f"{label} has no {absent}; measured were {sorted(scores)}.")
    for name in metrics:
      score.subtract_comparable_scores(scores[name]["samples"], first[name]["samples"])
  return {n: first[n]["real"].value if first[n]["real"] else math.nan for n in metrics}


def markdown_table(table, columns, corner=""):
  """Lines of a Markdown table, a list of str, with a row for each label.

  Args:
    table: {label: {column: number or str}}; what is absent or NaN is left empty.
    columns: their names.
    corner: the name of the column of labels.
  """

  def cell(x):
    return x if isinstance(x, str) else "" if math.isnan(x) else f"{x:.3g}"

  lines = [f"| {corner} | " + " | ".join(columns) + " |"]
  lines.append("| --- |" + " ---: |" * len(columns))
  for label, row in table.items():
    cells = [cell(row.get(name, math.nan)) for name in columns]
    lines.append(f"| {label} | " + " | ".join(cells) + " |")
  return lines


def bin_means(rows, name):
  """[(step, value)]: means of a logged scalar over disjoint bins of its rows.

  There are 40 to 80 bins, or a bin for each row if there are fewer.

  Args:
    rows: [{"step": int, name: number}], of a log.
    name: of the scalar.
  """
  points = [(row["step"], row[name]) for row in rows if name in row]
  size = max(1, len(points) // POINTS)
  groups = [points[i : i + size] for i in range(0, len(points), size)]
  mean = lambda values: sum(values) / len(values)
  return [tuple(mean(v) for v in zip(*group, strict=True)) for group in groups]


def plot_scores(path, table, real):
  """Saves bars of {arm: {metric: value}}, with lines at `real`, {metric: value}."""
  labels = list(table)
  names = list(real)
  size = (2.6 * len(names) + 1.5, 0.32 * len(labels) + 1.1)
  with log.plot_panels(path, len(names), size, sharey=True) as axes:
    for ax, name in zip(axes, names, strict=True):
      values = [table[label][name] for label in labels]
      bars = ax.barh(labels, values, color="tab:blue")
      ax.bar_label(bars, fmt="%.3g", fontsize=7, padding=2)
      ax.axvline(real[name], color="tab:orange", label="real clips")
      ax.set_title(name, fontsize=9)
      ax.margins(x=0.2)
      if not any([*values, real[name]]):
        ax.set_xlim(0.0, 1.0)  # nothing but zeros: no axis of 1e-16
      ax.tick_params(labelsize=8)
    axes[0].invert_yaxis()
    axes[-1].legend(fontsize=7)


def plot_curves(path, curves, name):
  """Saves a plot of the scalar `name`, `curves` being {arm: [(step, value)]}."""
  with log.plot_panels(path, 1, (6.5, 4)) as (ax,):
    for label, points in curves.items():
      ax.plot(*zip(*points, strict=True), label=label, linewidth=1.2)
    ax.set(xlabel="step", ylabel=name, yscale="log")
    ax.grid(alpha=0.3, which="both")
    ax.legend(fontsize=8)
