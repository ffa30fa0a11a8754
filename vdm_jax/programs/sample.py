"""Samples latents, decodes them, and writes videos that a person can look at."""

import json
import os
import pathlib
import shutil

import jax
import numpy as np
from einops import rearrange

from vdm_jax import config, log, sharding, video_io
from vdm_jax.data import transforms
from vdm_jax.programs import job as job_lib
from vdm_jax.programs import process_shards

VIDEOS = "videos.npz"
# What clips may have beside them, for a model to be told.
SIGNALS = ("label", "image", "text", "text_mask", "negative", "negative_mask")


def run(
  job,
  *,
  task,
  weights,
  autoencoder,
  autoencoder_weights,
  signals,
  shape,
  sampler,
  ts,
  wrappers=(),
  batch_size=50,
  folder="samples",
  fps=8,
  scale=1,
  grid_columns=8,
):
  """Writes <workdir>/<folder>: an mp4 for each clip, grid.gif, grid.png, videos.npz.

  The folder is replaced as a whole when the weights or the settings have changed. The
  rows of a batch are spread over the mesh, which changes no video.

  Args:
    task: a LatentDiffusion.
    weights, autoencoder_weights: folders, under the workdir, of the training stages.
    signals: () -> {name: array [N, ...]} as the task's conditioner reads them; one
      video for each row. With "label", one row of the grids for each class.
    shape: [T, h, w, c] of the latents.
    sampler, ts, wrappers: see diffusion/.
    fps, scale: of the files; scale enlarges small frames.
    batch_size: videos at a time; rows are added where the mesh cannot split so many.
    grid_columns: clips of each class in grid.gif and grid.png.
  """
  denoiser = job.weights(weights)
  decoder = job.weights(autoencoder_weights, "ema/autoencoder")
  made_of = {
    "weights": job_lib.digest(denoiser),
    "autoencoder": job_lib.digest(decoder),
    "settings": config.fingerprint(job.settings, job.seed),
  }
  place = job.workdir / folder
  if made_with(place) == made_of:
    job.print(f"these samples are there already, in {place}")
    return
  draw = generator(task, autoencoder, shape, sampler, ts, wrappers)
  rows = {k: np.asarray(v) for k, v in signals().items()}
  count = len(next(iter(rows.values())))
  # More rows than asked, for the mesh: a row's noise does not depend on those after it.
  size = process_shards.round_up(batch_size, job.mesh, job.rules)
  job.print(f"{count} videos")
  progress = log.Progress(count, name=job.stage)
  parts = []
  for first in range(0, count, batch_size):
    part = {k: v[first : first + batch_size] for k, v in rows.items()}
    batch, real = job_lib.pad(part, size)
    with job.use_mesh():
      key = jax.random.fold_in(job.key(), first)
      videos = draw(denoiser, decoder, job.put_batch(batch), key)
    parts.append(sharding.fetch(videos)[:real])
    progress.update(first + real, {})
  progress.close()
  videos = np.concatenate(parts)

  write(place, videos, rows, made_of, fps, scale, grid_columns)
  job.print(f"written to {place}")


def write(place, videos, rows, made_of, fps, scale, grid_columns):
  """Replaces the folder `place` by these videos and pictures of them; process 0 only.

  Args:
    videos: uint8 [N, T, H, W, 3].
    rows: {name: [N]}, what they were made for; kept beside them.
    made_of: what `made_with` shall give.
  """
  if jax.process_index():
    return
  partial = place.with_name(f".{place.name}.partial")
  shutil.rmtree(partial, ignore_errors=True)
  partial.mkdir(parents=True)
  for i, video in enumerate(videos):
    name = f"{i:05d}" + (f"_class{rows['label'][i]}" if "label" in rows else "")
    video_io.write_mp4(partial / f"{name}.mp4", video, fps, scale=scale)
  chosen, columns = one_row_a_class(videos, rows.get("label"), grid_columns)
  sheet = video_io.grid(chosen, columns)
  video_io.write_gif(partial / "grid.gif", sheet, fps, scale=scale)
  first = chosen.reshape(-1, columns, *chosen.shape[1:])[:, 0]
  video_io.write_png(partial / "grid.png", video_io.sheet(first), scale=scale)
  np.savez_compressed(partial / VIDEOS, video=videos, **rows)
  job_lib.write_json(partial / "meta.json", {"made_of": made_of, "count": len(videos)})
  old = place.with_name(f".{place.name}.old")
  shutil.rmtree(old, ignore_errors=True)
  if place.exists():
    os.rename(place, old)
  os.rename(partial, place)
  shutil.rmtree(old, ignore_errors=True)


def generator(task, autoencoder, shape, sampler, ts, wrappers):
  """Compiled (denoiser params, decoder params, batch, key) -> uint8 [B, T, H, W, 3]."""

  @jax.jit
  def draw(denoiser, decoder, batch, key):
    count = len(next(iter(batch.values())))
    latents = task.sample(
      denoiser, batch, (count, *shape), key, sampler=sampler, ts=ts, wrappers=wrappers
    )
    return to_uint8(autoencoder.decode(decoder, latents))

  return draw


class Preview:
  """(job, params, key) -> a few samples during training, uint8 [N, T, H, W, 3].

  Arguments as in `run`. Compiled once.
  """

  def __init__(
    self,
    *,
    task,
    autoencoder,
    autoencoder_weights,
    signals,
    shape,
    sampler,
    ts,
    wrappers=(),
  ):
    self.signals, self.autoencoder_weights = signals, autoencoder_weights
    self.draw = generator(task, autoencoder, shape, sampler, ts, wrappers)

  def __call__(self, job, params, key):
    decoder = job.weights(self.autoencoder_weights, "ema/autoencoder")
    rows = {k: np.asarray(v) for k, v in self.signals().items()}
    count = len(next(iter(rows.values())))
    size = process_shards.round_up(count, job.mesh, job.rules)
    with job.use_mesh():
      batch = job.put_batch(job_lib.pad(rows, size)[0])
      return sharding.fetch(self.draw(params, decoder, batch, key))[:count]


def reconstructions(job, params, key, *, task, source, count=8):
  """The first clips of `source`, each above what an autoencoder makes of it."""
  del job, key
  video = np.stack([source[i]["video"] for i in range(count)])
  made = to_uint8(task.reconstruct(params, video))
  return rearrange([video, np.asarray(made)], "two n t h w c -> (n two) t h w c")


def classes(*, num_classes, per_class):
  """{"label": [N]}: every class `per_class` times, in order."""
  return {"label": np.repeat(np.arange(num_classes, dtype=np.int32), per_class)}


def unconditional(*, count):
  """Signals of an unconditional model: only how many videos are wanted."""
  return {"index": np.arange(count, dtype=np.int32)}


def first_frames(*, source, count):
  """Signals of the first `count` records of encoded clips: their first frame.

  {"image_latents": [N, 1, h, w, c]}, the mean of the stored latents, and of SIGNALS
  what the records have: "image" [N, L, D] is what an image encoder saw in the frame.
  """
  found = [source[i] for i in range(min(count, len(source)))]
  latents = np.stack([record["mean"][:1] for record in found]).astype(np.float32)
  return stack_signals(found) | {"image_latents": latents}


def low_resolution(*, source, count, factor):
  """Signals of the first `count` clips of a source: them, smaller, and of SIGNALS.

  {"low": [N, T, H / factor, W / factor, 3]}.
  """
  found = [source[i] for i in range(min(count, len(source)))]
  low = np.stack([transforms.shrink(record["video"], factor) for record in found])
  return stack_signals(found) | {"low": low}


def stack_signals(records):
  """{name: [N, ...]} of what stands in SIGNALS and in the records."""
  found = {k: np.stack([r[k] for r in records]) for k in SIGNALS if k in records[0]}
  half = lambda x: x.dtype == np.float16
  return {k: x.astype(np.float32) if half(x) else x for k, x in found.items()}


def made_before(*, path, factor=1):
  """Signals of videos.npz in a folder of samples: {"low": the videos, "label" ...}."""
  with np.load(pathlib.Path(path) / VIDEOS, allow_pickle=False) as file:
    rows = dict(file)
  return {"low": transforms.shrink(rows.pop("video"), factor), **rows}


def to_uint8(video):
  """[-1, 1] -> 0 .. 255, rounded, on the device: a quarter of the bytes to fetch."""
  return jax.numpy.rint((jax.numpy.clip(video, -1, 1) + 1) * 127.5).astype(np.uint8)


def one_row_a_class(videos, labels, columns):
  """(videos for a grid, its columns): the first of each class, or simply the first."""
  if labels is None:
    columns = min(columns, len(videos))
    rows = min(columns, len(videos) // columns)
    return videos[: rows * columns], columns
  found = [np.flatnonzero(labels == label) for label in np.unique(labels)]
  columns = min([columns, *map(len, found)])
  return videos[np.concatenate([i[:columns] for i in found])], columns


def made_with(place):
  """What the samples in a folder were made of; None where there are none."""
  try:
    return json.loads((place / "meta.json").read_text())["made_of"]
  except (OSError, ValueError, KeyError):
    return None
