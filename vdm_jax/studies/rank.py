"""Ranks methods for long videos by their distance to an exactly known distribution."""

import textwrap
import time

import numpy as np

from vdm_jax import log
from vdm_jax.oracle import rank
from vdm_jax.programs import job as job_lib
from vdm_jax.studies import compare

COLUMNS = {
  "distance": "W2^2 / T",
  "seam": "seam",
  "memory": "first-last correlation",
  "variance": "variance",
  "motion": "motion",
}


def run(job, *, worlds, methods, process, grid, num_frames=64, folder="rank"):
  """Scores every method on every distribution of videos, exactly and without sampling.

  Writes <workdir>/<folder>: scores.json, table.md, scores.png, covariances_<world>.png.

  Args:
    job: programs.job.Job: workdir.
    worlds: {name: oracle.gaussian.GaussianVideo}, distributions of videos.
    methods: {name: oracle.rank.LongVideoMethod}: a sampler, wrappers, a schedule.
    process: diffusion process, with alpha_sigma(t).
    grid: process -> times [S + 1].
    num_frames: of the videos.
  """
  out = job.workdir / folder
  out.mkdir(parents=True, exist_ok=True)
  ts, scores, lines = grid(process), {}, []
  for world, video in worlds.items():
    truth = np.asarray(video.covariance(num_frames))
    covariances = {"truth": truth}
    scores[world] = {}
    for name, method in methods.items():
      start = time.perf_counter()
      scores[world][name], cov = rank.scores_and_covariance(
        method, video, process, ts, num_frames
      )
      covariances[name] = cov
      numbers = "  ".join(f"{k} {v:.5f}" for k, v in scores[world][name].items())
      job.print(f"{world}: {name}: {numbers}  ({time.perf_counter() - start:.1f} s)")
    memory = truth[0, -1] / truth[0, 0]
    lines += [*markdown_table(world, scores[world], memory), ""]
    slug = world.replace(" ", "_")
    plot_covariances(out / f"covariances_{slug}.png", covariances)
  job_lib.write_json(out / "scores.json", scores)
  (out / "table.md").write_text("\n".join(lines))
  plot_scores(out / "scores.png", scores)
  job.print(f"{out}: scores.json, table.md and pictures")


def markdown_table(world, scores, correlation):
  """Lines of a Markdown table, a list of str, the method nearest to the truth first.

  Args:
    world: its name, for the title.
    scores: {method: {"distance", "seam", "memory", "variance", "motion": float}}.
    correlation: true correlation of the first frame with the last.
  """
  digits = lambda name: 5 if name == "distance" else 3
  rows = {
    method: {head: f"{row[k]:.{digits(k)}f}" for k, head in COLUMNS.items()}
    for method, row in sorted(scores.items(), key=lambda item: item[1]["distance"])
  }
  title = f"**{world}** (true first-last correlation {correlation:.3f})"
  return [title, "", *compare.markdown_table(rows, list(COLUMNS.values()), "method")]


def plot_covariances(path, covariances):
  """Saves images of the covariances of frames, {method: [T, T]}, to the PNG `path`."""
  columns = 5
  rows = -(-len(covariances) // columns)
  size = (2.1 * columns, 2.3 * rows)
  with log.plot_panels(path, columns, size, rows=rows, dpi=65) as axes:
    for ax in axes:
      ax.axis("off")
    for ax, (name, cov) in zip(axes, covariances.items(), strict=False):
      image = ax.imshow(cov, vmin=0.0, vmax=1.0, cmap="magma", interpolation="nearest")
      ax.set_title(textwrap.fill(name, 20), fontsize=9)
    label = "covariance of two frames"
    ax.figure.colorbar(image, ax=axes, shrink=0.6, label=label)


def plot_scores(path, scores):
  """Saves bars of {world: {method: {"distance", "seam": float}}} to the PNG `path`."""
  count = max(map(len, scores.values()))
  size = (5.5 * len(scores), 0.32 * count + 1.2)
  with log.plot_panels(path, len(scores), size) as axes:
    for ax, (world, rows) in zip(axes, scores.items(), strict=True):
      order = sorted(rows, key=lambda name: -rows[name]["distance"])
      values = [max(rows[name]["distance"], 1e-7) for name in order]
      bars = ax.barh(order, values, color="tab:blue")
      seams = [f"seam {rows[name]['seam']:.2f}" for name in order]
      ax.bar_label(bars, seams, fontsize=7, padding=2)
      ax.set(xscale="log", title=world, xlabel="W2^2 / T to the truth (less is better)")
      ax.set_xlim(right=20.0 * max(values))
      ax.tick_params(labelsize=8)
