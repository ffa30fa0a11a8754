"""Completes real clips of which some frames are known, and scores the results."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from einops import rearrange

from vdm_jax import conditioning, log, sharding, video_io
from vdm_jax.diffusion import masks
from vdm_jax.programs import job as job_lib
from vdm_jax.programs import sample

NOTHING = "nothing"  # the name of the mask under which no frame is given
BY = " by frame"  # the names of figures that are lists, one number for each frame
WIDEST = 16  # frames in a row of a picture


@dataclasses.dataclass(frozen=True, kw_only=True)
class Completion:
  """A completion task: which frames are known, and how the others are sampled.

  Attributes:
    mask_name: of the known latent frames, "first", "first:4", "last", "ends", "every:2"
      (k frames after the colon), or "nothing".
    num_frames: of the completed clip, in video frames; a multiple of the autoencoder's
      temporal stride.
    sampler: (denoise, process, x, ts, cond, key) -> x0.
    ts: times [S + 1] or [S + 1, T], or process -> times.
    signals: names of the conditions that are used; the others are null.
    wrappers: (denoise, null) -> denoise, innermost first, such as guidance.
  """

  mask_name: str
  num_frames: int
  sampler: Callable
  ts: Any
  signals: tuple[str, ...] = ()
  wrappers: tuple = ()

  def mask(self, stride=1):
    """bool [num_frames / stride], True for known latent frames.

    Args:
      stride: video frames in a latent frame.
    """
    if self.num_frames % stride:
      low = self.num_frames // stride * stride
      raise ValueError(
        f"num_frames={self.num_frames} must be a multiple of {stride} (the "
        f"autoencoder's temporal stride); the nearest are {low} and {low + stride}."
      )
    if self.mask_name == NOTHING:
      return np.zeros(self.num_frames // stride, bool)
    return np.asarray(masks.from_name(self.mask_name, self.num_frames // stride))


@dataclasses.dataclass(frozen=True)
class SignalSubsetConditioner:
  """A conditioner, batch -> (cond, null), that makes all but some signals null.

  Attributes:
    conditioner: batch -> (Conditioning, null Conditioning), with all signals.
    signals: names of those that are kept in `cond`.
  """

  conditioner: Callable
  signals: tuple[str, ...]

  def __call__(self, batch):
    cond, null = self.conditioner(batch)
    hidden = set(conditioning.signal_names(cond)) - set(self.signals)
    return conditioning.swap(cond, null, tuple(sorted(hidden))), null


def run(
  job,
  *,
  generator,
  source,
  completions,
  judge,
  count=100,
  folder="completions",
  fps=8,
  scale=4,
  preview_clips=4,
):
  """Runs completion tasks on the same real clips, scores them and writes files.

  In <workdir>/<folder>, each task has <name>/videos.npz, grid.gif and strips.png (real
  clips above samples); metrics.json and by_frame.png are of all tasks.

  Args:
    job: programs.job.Job: workdir, seed, mesh.
    generator: tasks.generator.Generator, whose frames, sampler, times and wrappers
      each Completion replaces.
    source: real clips, [i] -> {"video": uint8 [T, H, W, 3], ...}, no shorter than the
      longest completion.
    completions: {name: Completion}.
    judge: (videos, real, labels, mask) -> {name: number or list}; uint8 videos
      [N, T, H, W, 3], labels int [N] or None, mask bool [T], True for known frames.
    count: number of clips, the first of the source.
    fps, scale: frames a second, and integer enlargement, of the images.
    preview_clips: number of clips in the images.
  """
  params = generator.load(job)
  batch, real = load_signals_and_videos(source, count)
  longest = max(completion.num_frames for completion in completions.values())
  if longest > real.shape[1]:
    raise ValueError(
      f"A completion of {longest} frames cannot be judged by real clips of "
      f"{real.shape[1]}; give longer clips, or ask for fewer frames."
    )
  with job.use_mesh():
    truth, rebuilt = jax.jit(functools.partial(encode_and_decode, generator))(
      params, job.put_batch({"video": real})["video"]
    )
  rebuilt = sharding.fetch(rebuilt)

  scores, stride = {}, generator.autoencoder.stride[0]
  for n, (name, completion) in enumerate(completions.items()):
    known, length = completion.mask(stride), completion.num_frames
    mask = np.repeat(known, stride)  # of frames of video
    draw = jax.jit(functools.partial(_complete, generator, completion, known))
    with job.use_mesh():
      key = jax.random.fold_in(job.key(), n)
      videos = draw(params, job.put_batch(batch), truth[:, : len(known)], key)
    videos, true = sharding.fetch(videos), real[:, :length]
    sides = {"samples": videos, "autoencoder": rebuilt[:, :length], "real": true}
    scores[name] = {
      "given": np.flatnonzero(mask).tolist(),
      "frames": length,
      "clips": count,
      **{k: judge(made, true, batch.get("label"), mask) for k, made in sides.items()},
    }
    path = job.workdir / folder / name
    tinted = tint_known_frames(videos[:preview_clips], mask)
    _pictures(path, true[:preview_clips], tinted, fps, scale)
    np.savez_compressed(path / sample.VIDEOS, video=videos, mask=mask)
    text = ", ".join(f"{k} {v:.3g}" for k, v in scalar_scores(scores[name]["samples"]))
    job.print(f"{name}: {text}")
  job_lib.write_json(job.workdir / folder / "metrics.json", scores)
  plot_by_frame(job.workdir / folder / "by_frame.png", scores)
  job.print_table(table_rows(scores))


def load_signals_and_videos(source, count):
  """(signals {name: [N, ...]}, videos [N, T, H, W, 3]) of the first `count` records."""
  if not 1 <= count <= len(source):
    raise ValueError(
      f"count={count} clips of a source of {len(source)}; ask for 1 to {len(source)}."
    )
  records = [source[i] for i in range(count)]
  batch = {key: np.stack([r[key] for r in records]) for key in records[0]}
  return batch, batch.pop("video")


def encode_and_decode(generator, params, video):
  """(latents [N, t, h, w, c], decoded uint8 videos [N, T, H, W, 3]) of uint8 videos.

  Args:
    generator: tasks.generator.Generator, whose parameters are `params`.
  """
  latents = generator.encode(params, video)
  return latents, generator.decode(params, latents)


def _complete(generator, completion, mask, params, batch, known, key):
  """uint8 videos, like the latents `known` where the mask [t] is True."""
  task, given = generator.task, mask.any()
  conditioner = SignalSubsetConditioner(task.conditioner, completion.signals)
  generator = dataclasses.replace(
    generator,
    task=dataclasses.replace(task, conditioner=conditioner),
    shape=known.shape[1:],
    sampler=completion.sampler,
    ts=completion.ts,
    wrappers=completion.wrappers,
  )
  frames = dict(known=known, mask=mask) if given else dict(known=None, mask=None)
  return generator.videos(params, batch, key, **frames)


def _pictures(path, real, videos, fps, scale):
  """The real clips above the completed ones: in motion, and frame by frame."""
  pairs = rearrange([real, videos], "two n t h w c -> (n two) t h w c")
  video_io.write_gif(path / "grid.gif", video_io.video_grid(pairs, 2), fps, scale=scale)
  strip = pairs[:, :: -(-pairs.shape[1] // WIDEST)]
  video_io.write_png(path / "strips.png", video_io.frame_sheet(strip), scale=scale)


def plot_by_frame(path, scores):
  """Saves a plot of the scores "... by frame", if there are any, to the PNG `path`.

  Args:
    scores: {task: {"samples": {score: [T]}, "given": indices of known frames}}.
  """
  names = sorted({k for s in scores.values() for k in s["samples"] if k.endswith(BY)})
  if not names:
    return
  with log.plot_panels(path, len(names), (4.5 * len(names), 3.2)) as axes:
    for ax, figure in zip(axes, names, strict=True):
      for name, score in scores.items():
        values, given = score["samples"][figure], set(score["given"])
        new = [i for i in range(len(values)) if i not in given]
        ax.plot(new, [values[i] for i in new], ".-", label=name, markersize=4)
      ax.set(xlabel="frame", title=figure.removesuffix(BY))
      ax.grid(alpha=0.3)
    axes[0].legend(fontsize=7)


def tint_known_frames(videos, mask):
  """uint8 videos [N, T, H, W, 3] with known frames, mask [T] True, tinted blue."""
  tint = np.array([0.45, 0.65, 1.0])
  floor = np.array([0, 0, 70])
  blue = np.maximum(videos * tint, floor).astype(np.uint8)
  return np.where(mask[:, None, None, None], blue, videos)


def table_rows(scores):
  """[{"": "task, side", score: number}] of {task: {side: {score: number or list}}}.

  Sides are "samples", "autoencoder" and "real"; lists are left out.
  """
  rows = []
  for name, score in scores.items():
    for side in ("samples", "autoencoder", "real"):
      rows.append({"": f"{name}, {side}", **dict(scalar_scores(score[side]))})
  return rows


def scalar_scores(scores):
  """[(name, number)] of scores {name: number or list}, without the lists."""
  return [(name, x) for name, x in scores.items() if not isinstance(x, list)]
