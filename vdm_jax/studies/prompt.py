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

from vdm_jax import log, video_io
from vdm_jax.programs import job as job_lib
from vdm_jax.programs import sample

EDGE = 70  # grey around each clip in the pictures


@dataclasses.dataclass(frozen=True, kw_only=True)
class GuidanceVariant:
  """One guidance of the model.

  Attributes:
    name: of its figures and its folder.
    wrappers: of the denoiser, such as guidance, see diffusion/.
    negative_embedding: float [M, D], tokens of a negative prompt for the
      unconditional branch; None: the null embedding of training.
  """

  name: str
  wrappers: tuple[Callable, ...] = ()
  negative_embedding: Any = None


def run(
  job,
  *,
  generator,
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
  grid_shape=(8, 6),
):
  """Samples a clip for each prompt in each variant, and writes means of their scores.

  Args:
    generator: a tasks.generator.Generator whose task has a conditioner.Text; its
      wrappers are replaced by those of each variant.
    encoder: list of str -> (values [N, L, D], mask [N, L]), of the texts.
    prompts: () -> list of dicts with "text" and whatever else the judge reads.
    variants: a list of GuidanceVariant.
    judge: (uint8 videos [N, T, H, W, 3], prompts) -> {figure: [N]}, NaN where a figure
      is not defined.
    group: prompt -> a name; means are given for each of these groups, too.
    real: () -> (videos, prompts) of real clips, judged like the samples.
    batch_size: videos at a time.
    folder: under the workdir.
    fps: frames a second of grid.gif.
    scale: pixels of the pictures for each of the clips.
    grid_shape: (rows, columns) of the grids: texts, evenly spaced, and clips of each.
  """
  params, task = generator.load(job), generator.task
  prompts = prompts()
  texts = [prompt["text"] for prompt in prompts]
  signals = dict(zip(("text", "text_mask"), encoder(texts), strict=True))
  path, scores, samples = job.workdir / folder, {}, {}
  for variant in variants:
    conditioner = dataclasses.replace(task.conditioner, null=variant.negative_embedding)
    task = dataclasses.replace(task, conditioner=conditioner)
    own = dataclasses.replace(generator, task=task, wrappers=variant.wrappers)
    draw = jax.jit(own.videos)
    samples[variant.name] = videos = job.map_batches(
      lambda batch, key, draw=draw: draw(params, batch, key),
      signals,
      batch_size,
      key=job.key(),
    )
    scores[variant.name] = mean_scores(judge(videos, prompts), prompts, group)
    figures = scores[variant.name]["all"].items()
    job.print(f"{variant.name}: " + ", ".join(f"{k} {v:.3g}" for k, v in figures))
  if real is not None:
    videos, of_real = real()
    scores["real clips"] = mean_scores(judge(videos, of_real), of_real, group)
  for name, videos in samples.items():
    own = path / re.sub(r"\W+", "_", name).strip("_")
    own.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(own / sample.VIDEOS, video=videos, text=np.array(texts))
    write_pictures(own, videos, texts, grid_shape, fps, scale)
  job_lib.write_json(path / "metrics.json", scores)
  if jax.process_index() == 0:
    print("\n" + log.format_table(table_rows(scores)) + "\n", flush=True)


def mean_scores(scores, prompts, group=None):
  """{"all" and each group: {"count": clips, figure: its mean over their prompts}}.

  Args:
    scores: {figure: [N]}; NaN is left out of the means.
    prompts: [N], dicts.
    group: prompt -> name of its group.
  """
  rows = collections.defaultdict(list)
  for i, prompt in enumerate(prompts):
    rows["all"].append(i)
    if group is not None:
      rows[group(prompt)].append(i)
  found = {}
  for name, chosen in rows.items():
    parts = {k: np.asarray(v, float)[chosen] for k, v in scores.items()}
    defined = {k: v[~np.isnan(v)] for k, v in parts.items()}
    numbers = {k: float(v.mean()) for k, v in defined.items() if len(v)}
    found[name] = {"count": len(chosen), **numbers}
  return found


def text_of(prompt):
  """The "text" of a prompt: as `group` of `run`, a group for each text."""
  return prompt["text"]


def table_rows(scores):
  """Rows [{"": variant and group, figure: number}] for log.format_table."""
  return [
    {"": variant if name == "all" else f"{variant}, {name}", **figures}
    for variant, groups in scores.items()
    for name, figures in groups.items()
  ]


def write_pictures(path, videos, texts, grid_shape, fps, scale):
  """Writes grid.gif, texts left of their clips, and grid.png, left of frames of one.

  Args:
    path: a folder.
    videos: uint8 [N, T, H, W, 3], of the texts [N].
    grid_shape, fps, scale: as `run` takes them.
  """
  firsts = list(dict.fromkeys(texts))  # each text once, in their order
  rows, columns = min(grid_shape[0], len(firsts)), grid_shape[1]
  chosen = [firsts[i * len(firsts) // rows] for i in range(rows)]
  edges = ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0))
  videos = np.pad(videos, edges, constant_values=EDGE)
  clips = [[i for i, other in enumerate(texts) if other == text] for text in chosen]
  columns = min(columns, *map(len, clips))
  strips, sheets = [], []
  for text, found in zip(chosen, clips, strict=True):
    drawn = video_io.video_grid(videos[found[:columns]], columns)
    sheets.append(caption(text, video_io.enlarge(drawn, scale)))
    frames = video_io.frame_sheet(videos[found[:1]])
    strips.append(caption(text, video_io.enlarge(frames[None], scale)))
  stack = lambda parts: rearrange(parts, "r t h w c -> t (r h) w c")
  video_io.write_gif(path / "grid.gif", stack(sheets), fps)
  video_io.write_png(path / "grid.png", stack(strips)[0])


def caption(text, video, *, width=300, size=17, gap=6):
  """uint8 [T, H + gap, width + W, 3]: the text, white on black, left of a video."""
  frames, height = video.shape[:2]
  label = Image.new("RGB", (width, height + gap))
  font = ImageFont.load_default(size)
  place = (6, (height - size) // 2)
  ImageDraw.Draw(label).text(place, text, font=font, fill="white")
  label = np.broadcast_to(np.asarray(label), (frames, height + gap, width, 3))
  video = np.pad(video, ((0, 0), (0, gap), (0, 0), (0, 0)))
  return np.concatenate([label, video], axis=2)
