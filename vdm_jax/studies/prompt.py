"""Samples a text-to-video model by the same prompts in several variants, and scores it.

A variant is a guidance and perhaps a negative prompt; all variants have the same
prompts and the same noise. Writes, under `folder`, for each variant
<variant>/{videos.npz, grid.gif, grid.png}, texts left of the clips, and metrics.json.
"""

import collections
import dataclasses
import re
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from einops import rearrange
from PIL import Image, ImageDraw, ImageFont

from vdm_jax import log, sharding, video_io
from vdm_jax.programs import job as job_lib
from vdm_jax.programs import sample

EDGE = 70  # grey around each clip in the pictures


@dataclasses.dataclass(frozen=True, kw_only=True)
class Variant:
  """One guidance of the model.

  Attributes:
    name: of its figures and its folder.
    wrappers: of the denoiser, such as guidance, see diffusion/.
    negative: what guidance leads away from, [M, D] as `embed.negative` gives it; None
      is what stands for "no text" in training.
  """

  name: str
  wrappers: tuple[Callable, ...] = ()
  negative: Any = None


def run(
  job,
  *,
  task,
  weights,
  autoencoder,
  autoencoder_weights,
  shape,
  sampler,
  ts,
  encoder,
  prompts,
  variants,
  judge,
  group=None,
  real=None,
  batch_size=100,
  folder="prompts",
  fps=8,
  scale=4,
  shown=(8, 6),
):
  """Samples a clip for each prompt in each variant, and writes means of their scores.

  Args:
    task, weights, autoencoder, autoencoder_weights, shape, sampler, ts: see
      `sample.run`; the task's conditioner is a conditioner.Text.
    encoder: an embed.TextEncoder.
    prompts: () -> list of dicts with "text" and whatever else the judge reads.
    variants: a list of Variant.
    judge: (videos, prompts) -> {figure: [N]}; NaN where it has nothing to say.
    group: prompts -> a name; its figures are given by themselves, too.
    real: () -> (videos, prompts) of real clips, judged like the samples.
    shown: (rows, columns) of the pictures: texts, evenly spaced, and clips of each.
  """
  params = job.weights(weights), job.weights(autoencoder_weights, "ema/autoencoder")
  wants = prompts()
  values, mask = encoder([want["text"] for want in wants])
  signals = {"text": values, "text_mask": mask}
  place, scores, kept = job.workdir / folder, {}, {}
  for variant in variants:
    told = dataclasses.replace(task.conditioner, null=variant.negative)
    draw = sample.generator(
      dataclasses.replace(task, conditioner=told),
      autoencoder,
      shape,
      sampler,
      ts,
      variant.wrappers,
    )
    videos = _draw_all(job, draw, params, signals, batch_size)
    scores[variant.name] = means(judge(videos, wants), wants, group)
    kept[variant.name] = videos
    job.print(f"{variant.name}: " + _said(scores[variant.name]["all"]))
  if real is not None:
    scores["real clips"] = means(judge(*(found := real())), found[1], group)
  for name, videos in kept.items():
    here = place / re.sub(r"\W+", "_", name).strip("_")
    here.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
      here / sample.VIDEOS, video=videos, text=np.array([w["text"] for w in wants])
    )
    pictures(here, videos, [w["text"] for w in wants], shown, fps, scale)
  job_lib.write_json(place / "metrics.json", scores)
  if jax.process_index() == 0:
    print("\n" + log.table(table(scores)) + "\n", flush=True)


def _draw_all(job, draw, params, signals, batch_size):
  count, parts = len(signals["text"]), []
  for first in range(0, count, batch_size):
    part = {k: v[first : first + batch_size] for k, v in signals.items()}
    batch, real = job_lib.pad(part, batch_size)
    with job.use_mesh():
      videos = draw(*params, job.put_batch(batch), jax.random.fold_in(job.key(), first))
    parts.append(sharding.fetch(videos)[:real])
  return np.concatenate(parts)


def means(figures, prompts, group=None):
  """{"all" and each group: {"count": clips, figure: its mean over their prompts}}."""
  rows = collections.defaultdict(list)
  for i, want in enumerate(prompts):
    rows["all"].append(i)
    if group is not None:
      rows[group(want)].append(i)
  found = {}
  for name, chosen in rows.items():
    parts = {k: np.asarray(v, float)[chosen] for k, v in figures.items()}
    told = {k: v[~np.isnan(v)] for k, v in parts.items()}
    numbers = {k: float(v.mean()) for k, v in told.items() if len(v)}
    found[name] = {"count": len(chosen), **numbers}
  return found


def text_of(want):
  """A group for each text."""
  return want["text"]


def table(scores):
  """Rows for `log.table`: each variant, and in it each group."""
  return [
    {"": variant if name == "all" else f"{variant}, {name}", **figures}
    for variant, groups in scores.items()
    for name, figures in groups.items()
  ]


def pictures(place, videos, texts, shown, fps, scale):
  """grid.gif, each text beside its clips; grid.png, beside the first one's frames."""
  firsts = list(dict.fromkeys(texts))  # each text once, in their order
  rows, columns = min(shown[0], len(firsts)), shown[1]
  chosen = [firsts[i * len(firsts) // rows] for i in range(rows)]
  edges = ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0))
  videos = np.pad(videos, edges, constant_values=EDGE)
  clips = [[i for i, other in enumerate(texts) if other == text] for text in chosen]
  columns = min(columns, *map(len, clips))
  strips, sheets = [], []
  for text, found in zip(chosen, clips, strict=True):
    drawn = video_io.grid(videos[found[:columns]], columns)
    sheets.append(beside(text, video_io.enlarge(drawn, scale)))
    frames = video_io.sheet(videos[found[:1]])
    strips.append(beside(text, video_io.enlarge(frames[None], scale)))
  stack = lambda parts: rearrange(parts, "r t h w c -> t (r h) w c")
  video_io.write_gif(place / "grid.gif", stack(sheets), fps)
  video_io.write_png(place / "grid.png", stack(strips)[0])


def beside(text, video, *, width=300, size=17, gap=6):
  """uint8 [T, H + gap, width + W, 3]: the text, white on black, left of a video."""
  frames, height = video.shape[:2]
  label = Image.new("RGB", (width, height + gap))
  font = ImageFont.load_default(size)
  place = (6, (height - size) // 2)
  ImageDraw.Draw(label).text(place, text, font=font, fill="white")
  label = np.broadcast_to(np.asarray(label), (frames, height + gap, width, 3))
  video = np.pad(video, ((0, 0), (0, gap), (0, 0), (0, 0)))
  return np.concatenate([label, video], axis=2)


def _said(figures):
  return ", ".join(f"{name} {value:.3g}" for name, value in figures.items())
