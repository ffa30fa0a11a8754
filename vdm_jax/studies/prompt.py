"""Samples a text-to-video model with the same prompts in several guidance variants."""

import collections
import dataclasses
import re
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from einops import rearrange
from PIL import Image, ImageDraw, ImageFont

from vdm_jax import video_io
from vdm_jax.programs import job as job_lib
from vdm_jax.programs import sample

EDGE = 70  # grey around each clip in the pictures


@dataclasses.dataclass(frozen=True, kw_only=True)
class GuidanceVariant:
  """A guidance, and perhaps a negative prompt, to sample a model with.

  Attributes:
    name: of its scores and its folder.
    wrappers: (denoise, null) -> denoise, innermost first, such as guidance.
    negative_embedding: float [M, D], tokens of a negative prompt for the unconditional
      branch; None: the null embedding of training.
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
  """Samples each prompt in each variant from equal noise, and writes mean scores.

  In <workdir>/<folder>, each variant has a folder of videos.npz, grid.gif, grid.png,
  texts left of clips; metrics.json has {variant: {group: {score: mean}}}.

  Args:
    job: programs.job.Job: workdir, seed, mesh.
    generator: tasks.generator.Generator whose task has a conditioner.Text; each variant
      replaces its wrappers.
    encoder: TextEncoder, (list of N str) -> (float32 [N, L, D], bool mask [N, L]).
    prompts: () -> [{"text": str, ...}], dicts that `judge` understands.
    variants: [GuidanceVariant].
    judge: (uint8 videos [N, T, H, W, 3], prompts) -> {score: [N]}, NaN if undefined.
    group: prompt -> name of a group that has its own means; None: no groups.
    real: () -> (videos, prompts) of real clips to be scored, too.
    batch_size: videos at a time.
    fps, scale: frames a second, and integer enlargement, of the images.
    grid_shape: (number of texts, clips of each) in the grids.
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
    scores[variant.name] = mean_scores_by_group(judge(videos, prompts), prompts, group)
    figures = scores[variant.name]["all"].items()
    job.print(f"{variant.name}: " + ", ".join(f"{k} {v:.3g}" for k, v in figures))
  if real is not None:
    videos, of_real = real()
    scores["real clips"] = mean_scores_by_group(judge(videos, of_real), of_real, group)
  for name, videos in samples.items():
    own = path / re.sub(r"\W+", "_", name).strip("_")
    own.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(own / sample.VIDEOS, video=videos, text=np.array(texts))
    write_captioned_grids(own, videos, texts, grid_shape, fps, scale)
  job_lib.write_json(path / "metrics.json", scores)
  job.print_table(table_rows(scores))


def mean_scores_by_group(scores, prompts, group_of=None):
  """{group: {"count": clips, score: mean}}, for the group "all" and each other one.

  Args:
    scores: {score: [N]}; NaN is left out of the means.
    prompts: [N] dicts.
    group_of: prompt -> name of its group; None: only "all".
  """
  rows = collections.defaultdict(list)
  for i, prompt in enumerate(prompts):
    rows["all"].append(i)
    if group_of is not None:
      rows[group_of(prompt)].append(i)
  found = {}
  for name, chosen in rows.items():
    parts = {k: np.asarray(v, float)[chosen] for k, v in scores.items()}
    defined = {k: v[~np.isnan(v)] for k, v in parts.items()}
    numbers = {k: float(v.mean()) for k, v in defined.items() if len(v)}
    found[name] = {"count": len(chosen), **numbers}
  return found


def text_of(prompt):
  """The "text" of a prompt, a dict: makes a group of all clips of one text."""
  return prompt["text"]


def table_rows(scores):
  """[{"": "variant, group", score: number}] of {variant: {group: {score: number}}}."""
  return [
    {"": variant if name == "all" else f"{variant}, {name}", **figures}
    for variant, groups in scores.items()
    for name, figures in groups.items()
  ]


def write_captioned_grids(path, videos, texts, grid_shape, fps, scale):
  """Writes grid.gif, texts left of moving clips, and grid.png, left of frames of one.

  Args:
    path: of a folder.
    videos: uint8 [N, T, H, W, 3], of the texts [N].
    grid_shape: (number of texts, clips of each).
    fps, scale: frames a second and integer enlargement.
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
    sheets.append(captioned_video(text, video_io.enlarge(drawn, scale)))
    frames = video_io.frame_sheet(videos[found[:1]])
    strips.append(captioned_video(text, video_io.enlarge(frames[None], scale)))
  stack = lambda parts: rearrange(parts, "r t h w c -> t (r h) w c")
  video_io.write_gif(path / "grid.gif", stack(sheets), fps)
  video_io.write_png(path / "grid.png", stack(strips)[0])


def captioned_video(text, video, *, width=300, size=17, gap=6):
  """A video with a text, white on black, to its left: uint8 [T, H + gap, width + W, 3].

  Args:
    video: uint8 [T, H, W, 3].
    width, size, gap: pixels of the text's area, of its font, and below the video.
  """
  frames, height = video.shape[:2]
  label = Image.new("RGB", (width, height + gap))
  font = ImageFont.load_default(size)
  place = (6, (height - size) // 2)
  ImageDraw.Draw(label).text(place, text, font=font, fill="white")
  label = np.broadcast_to(np.asarray(label), (frames, height + gap, width, 3))
  video = np.pad(video, ((0, 0), (0, gap), (0, 0), (0, 0)))
  return np.concatenate([label, video], axis=2)
