"""Reads long videos of moving digits: who flies there, how, and where windows meet."""

import matplotlib
import numpy as np

from vdm_jax.programs import job as job_lib
from vdm_jax.programs import sample
from vdm_jax.studies import compare
from vdm_jax.worlds.moving_digits import reader as digits

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402

PART = 16  # frames that are judged together
FASTEST = 1.0  # pixels a frame
SHOWN = (
  "read as the asked digit",
  "read so in the last 16 frames",
  "handwriting drift (grey levels)",
  "seam (1 is none)",
  "motion error, 17 frames (pixels)",
  "motion error, whole video (pixels)",
  "speed, last over first 64 frames",
)


def run(job, *, arms, seams, real, train, train_clips=1200, folder="judgement"):
  """Writes <workdir>/<folder>/{scores.json, table.md, long.png}.

  Args:
    arms: {label: the suffix of the folder of its videos, long_<suffix>}.
    seams: {suffix: frames from one seam to the next}.
    real, train: sources of long clips; `train_clips` of train fit the classifier.
  """
  records = [train[i] for i in range(min(train_clips, len(train)))]
  stack = lambda records: [
    np.stack([r[k] for r in records]) for k in ("video", "label")
  ]
  classifier = digits.DigitClassifier(*stack(records))
  videos, curves, scores = {}, {}, {}
  for label, suffix in arms.items():
    path = job.workdir / f"long_{suffix}" / sample.VIDEOS
    with np.load(path, allow_pickle=False) as file:
      clips, labels = file["video"], file["label"]
    videos[label] = clips
    scores[label], curves[label] = judged(classifier, clips, labels, seams[suffix])
    job.print(f"{label}: {scores[label]}")
  count = min(len(labels), len(real))
  clips, labels = stack([real[i] for i in range(count)])
  videos["real videos"] = clips
  scores["real videos"], curves["real videos"] = judged(classifier, clips, labels, PART)
  out = job.workdir / folder
  out.mkdir(parents=True, exist_ok=True)
  job_lib.write_json(out / "scores.json", {"scores": scores, "curves": curves})
  lines = compare.markdown_table(scores, SHOWN)
  (out / "table.md").write_text("\n".join(lines) + "\n")
  draw(out / "long.png", videos, curves)
  print("\n" + "\n".join(lines) + "\n", flush=True)


def judged(classifier, videos, labels, seam):
  """({figure: number}, {curve: one number for each 16 frames})."""
  starts = range(0, videos.shape[1] - PART + 1, PART)
  right = classifier.classify_frames(videos) == labels[:, None]
  parts = [slice(start, start + PART + 1) for start in starts]
  apart = digits.handwriting_change(videos, PART)
  near = [
    float(np.median(digits.motion_error(videos[:, part], max_speed=FASTEST)))
    for part in parts
  ]
  speeds = [digits.mean_speed(videos[:, part]) for part in parts]
  part_mean = lambda x: [float(x[:, part].mean()) for part in parts]
  whole = digits.motion_error(videos, max_speed=FASTEST)
  last_over_first = np.mean(speeds[-4:], axis=0) / np.mean(speeds[:4], axis=0)
  figures = dict.fromkeys(SHOWN) | {
    SHOWN[0]: float((classifier.classify(videos) == labels).mean()),
    SHOWN[1]: float((classifier.classify(videos[:, -PART:]) == labels).mean()),
    SHOWN[2]: float(apart[:, -PART:].mean()),
    SHOWN[3]: float(np.median(seams(videos, seam))),
    SHOWN[4]: float(np.mean(near)),
    SHOWN[5]: float(np.median(whole)),
    SHOWN[6]: float(np.median(last_over_first)),
  }
  curves = {
    "frames read right": part_mean(right),
    "handwriting drift (grey levels)": part_mean(apart),
    "motion error (pixels)": near,
    "speed (pixels a frame)": [float(x.mean()) for x in speeds],
  }
  return figures, curves


def seams(videos, every):
  """Jump [N] of the digit's velocity at every `every`-th frame over that elsewhere."""
  jump = np.linalg.norm(np.diff(digits.centres_of_mass(videos), n=2, axis=1), axis=-1)
  at = (np.arange(jump.shape[1]) + 1) % every == 0
  return jump[:, at].mean(1) / np.maximum(jump[:, ~at].mean(1), 1e-6)


def draw(path, videos, curves):
  """A video of each way, every eighth frame, over the curves of all."""
  names = list(next(iter(curves.values())))
  fig = plt.figure(figsize=(14, 1.0 * len(videos) / 2 + 4.2))
  grid = fig.add_gridspec(
    len(videos) + 1, len(names), height_ratios=[0.5] * len(videos) + [3]
  )
  for row, (label, clips) in enumerate(videos.items()):
    ax = fig.add_subplot(grid[row, :])
    ax.imshow(np.concatenate(list(clips[0, ::8]), axis=1))
    ax.set_title(label, fontsize=9, loc="left", pad=2)
    ax.axis("off")
  for column, name in enumerate(names):
    ax = fig.add_subplot(grid[-1, column])
    for label, curve in curves.items():
      style = "k--" if label == "real videos" else "-"
      ax.plot(PART * np.arange(len(curve[name])), curve[name], style, label=label)
    ax.set_title(name, fontsize=9)
    ax.set_xlabel("frame", fontsize=8)
    ax.set_ylim(bottom=0)
    ax.tick_params(labelsize=7)
    ax.grid(alpha=0.3)
  ax.legend(fontsize=7)
  fig.tight_layout()
  fig.savefig(path, dpi=90)
  plt.close(fig)
