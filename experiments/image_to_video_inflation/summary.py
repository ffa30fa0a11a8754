"""The arms side by side: what they reached, what they cost, and what they drew."""

import time

import jax
import matplotlib
import numpy as np

from vdm_jax import sharding
from vdm_jax.programs import job as job_lib
from vdm_jax.programs import sample
from vdm_jax.studies import compare
from vdm_jax.training import optimizer, state, step
from vdm_jax.worlds.moving_digits import reader

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402

SHOWN = (
  "read as the asked digit",
  "motion error (pixels)",
  "speed (pixels a frame)",
  "flicker (grey levels)",
  "static clips",
)
CHANGE = "handwriting change (grey levels)"
COSTS = ("parameters along time", "clips a second", "memory (MiB)")
PANELS = (SHOWN[0], SHOWN[1], SHOWN[3], CHANGE, *COSTS[1:])
TIMED = 12  # training steps of an arm whose median is its speed
DRAWN = (3, 8)  # the digits in the picture


def run(job, *, arms, tasks, loader, real, frozen="images", folder="summary"):
  """Writes <workdir>/<folder>/{scores.json, table.md, summary.png}.

  Args:
    arms: {label: suffix of its stages, and folder of its weights}.
    tasks: {suffix: its task}.
    loader: of batches of clips.
    real: a source of held-out clips.
    frozen: the suffix of the image model.
  """
  measured = {
    label: compare.read_metrics(job.workdir / f"metrics_{suffix}.json")
    for label, suffix in arms.items()
  }
  clips = np.stack([real[i]["video"] for i in range(min(250, len(real)))])
  real = compare.comparable_real_scores(measured, SHOWN)
  real[CHANGE] = float(reader.handwriting_change(clips).mean())
  batch = next(iter(loader))
  counts = {suffix: size(task, loader.spec()) for suffix, task in tasks.items()}
  table = {}
  for label, suffix in arms.items():
    scores = measured[label]
    table[label] = {name: scores[name]["samples"].value for name in SHOWN}
    made = read(job.workdir / f"samples_{suffix}")[0]
    table[label][CHANGE] = float(reader.handwriting_change(made).mean())
    if suffix == frozen:  # is not trained on clips
      table[label] |= dict.fromkeys(COSTS, float("nan")) | {COSTS[0]: 0}
      continue
    seconds, memory = cost(job, tasks[suffix], batch, loader.spec())
    count = counts[suffix] - counts[frozen]
    clips = len(next(iter(batch.values())))
    table[label] |= dict(zip(COSTS, (count, clips / seconds, memory), strict=True))
    job.print(f"{label}: {count} parameters, {seconds:.3f} s a step, {memory:.0f} MiB")
  table["real clips"] = real | dict.fromkeys(COSTS, float("nan"))
  out = job.workdir / folder
  out.mkdir(parents=True, exist_ok=True)
  known = {k: {n: x for n, x in row.items() if x == x} for k, row in table.items()}
  job_lib.write_json(out / "scores.json", known)  # a JSON file has no NaN
  lines = compare.markdown_table(table, (*SHOWN, CHANGE, *COSTS))
  (out / "table.md").write_text("\n".join(lines) + "\n")
  clips = {label: drawn(job.workdir / f"samples_{arms[label]}") for label in arms}
  draw(out / "summary.png", table, clips)
  print("\n" + "\n".join(lines) + "\n", flush=True)


def size(task, spec):
  """Parameters of the task's network."""
  params = jax.eval_shape(task.init, jax.random.key(0), spec)
  return sum(x.size for x in jax.tree.leaves(params))


def cost(job, task, batch, spec):
  """(seconds, MiB) of a step that trains the layers along time."""
  rule = optimizer.adamw(learning_rate=1e-4)
  key, parts = jax.random.key(0), (job.mesh, job.rules, "temporal")
  begin, shardings = state.create_state_and_shardings(task, rule, spec, key, *parts)
  train = step.make_step(task.loss, rule, 0.99, shardings=shardings)
  train = step.compile_step(train, shardings, job.mesh, job.rules, None)
  batch = sharding.put_batch(batch, mesh=job.mesh, rules=job.rules)
  compiled = train.lower(begin, batch, key).compile()
  stats = compiled.memory_analysis()
  held = stats.temp_size_in_bytes + stats.argument_size_in_bytes
  taken = []
  for _ in range(TIMED):
    start = time.perf_counter()
    begin, _ = compiled(begin, batch, key)
    jax.block_until_ready(begin.params)
    taken.append(time.perf_counter() - start)
  return float(np.median(taken[2:])), held / 2**20


def read(place):
  """(videos, labels) of a folder of samples."""
  with np.load(place / sample.VIDEOS, allow_pickle=False) as file:
    return file["video"], file["label"]


def drawn(place):
  """[2, T, H, W, 3]: the first clip of each digit of DRAWN."""
  videos, labels = read(place)
  return np.stack([videos[np.flatnonzero(labels == k)[0]] for k in DRAWN])


def draw(path, table, clips):
  """A row for each arm: two of its clips, frame by frame, and bars of its figures."""
  labels, panels = list(clips), len(PANELS)
  fig, axes = plt.subplots(
    len(labels),
    1 + panels,
    figsize=(15, 0.95 * len(labels) + 0.6),
    width_ratios=[6] + panels * [1.5],
  )
  for n, (row, label) in enumerate(zip(axes, labels, strict=True)):
    strips = [np.concatenate(list(clip), axis=1) for clip in clips[label]]
    row[0].imshow(np.concatenate(strips, axis=1))
    row[0].set_title(label, fontsize=9, loc="left", pad=2)
    row[0].axis("off")
    for ax, name in zip(row[1:], PANELS, strict=True):
      value = table[label][name]
      known = [table[other][name] for other in table]
      ax.barh(0, 0 if np.isnan(value) else value, color="tab:blue", height=0.5)
      if not np.isnan(table["real clips"][name]):
        ax.axvline(table["real clips"][name], color="tab:orange")
      ax.set_xlim(0, 1.05 * np.nanmax(known))
      ax.set_ylim(-0.5, 0.8)
      text = "" if np.isnan(value) else f"{value:.3g}"
      ax.text(0.02, 0.8, text, fontsize=8, transform=ax.transAxes)
      ax.set_yticks([])
      ax.tick_params(labelsize=6)
      if n == 0:
        ax.set_title(name.replace(" (", "\n(").replace(" as ", "\nas "), fontsize=8)
      if n < len(labels) - 1:
        ax.set_xticklabels([])
  fig.tight_layout()
  fig.savefig(path, dpi=90)
  plt.close(fig)
