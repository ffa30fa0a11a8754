"""Samples videos and writes them as files that a person can look at.

A folder of samples holds an mp4 for each video, grid.gif and grid.png of some of them,
videos.npz, {"video": uint8 [N, T, H, W, 3], and the signals [N, ...]}, and meta.json.
"""

import json
import pathlib

import jax
import numpy as np
from einops import rearrange

from vdm_jax import atomic, batches, sharding, video_io
from vdm_jax.data import transforms
from vdm_jax.programs import job as job_lib

VIDEOS = "videos.npz"
# Conditions that records may hold besides a clip.
SIGNALS = ("label", "image", "text", "text_mask", "negative", "negative_mask")


def run(
  job,
  *,
  generator,
  signals,
  batch_size=50,
  folder="samples",
  fps=8,
  scale=1,
  grid_columns=8,
):
  """Writes <workdir>/<folder>, a folder of samples: one video for each row of signals.

  The folder is replaced as a whole when the weights or the settings have changed. The
  rows of a batch are spread over the mesh, which changes no video.

  Args:
    generator: a tasks.generator.Generator.
    signals: () -> {name: array [N, ...]}, what the task's conditioner takes.
    batch_size: videos at a time; rows are added where the mesh cannot split so many.
    folder: under the workdir.
    fps: frames a second of the files.
    scale: pixels of the files for each pixel of small frames.
    grid_columns: videos in a row of grid.gif and grid.png; with "label" among the
      signals, of each class.
  """
  write_samples(
    job,
    jax.jit(generator.videos),
    generator.load(job),
    signals,
    batch_size=batch_size,
    folder=folder,
    fps=fps,
    scale=scale,
    grid_columns=grid_columns,
  )


def write_samples(
  job, sample_fn, params, signals, *, batch_size, folder, fps, scale, grid_columns
):
  """Samples, and writes a folder of samples, unless the same ones are there.

  Args:
    sample_fn: (params, batch, key) -> uint8 [B, T, H, W, 3], jitted.
    params: {name: nested dict of arrays}.
    signals, batch_size, folder, fps, scale, grid_columns: as `run` takes them.
  """
  path, provenance = job.workdir / folder, job.provenance(params)
  if read_provenance(path) == provenance:
    job.print(f"these samples are there already, in {path}")
    return
  rows = {name: np.asarray(x) for name, x in signals().items()}
  job.print(f"{len(next(iter(rows.values())))} videos")
  videos = job.map_batches(
    lambda batch, key: sample_fn(params, batch, key),
    rows,
    batch_size,
    key=job.key(),
    progress=True,
  )
  write_folder(path, videos, rows, provenance, fps, scale, grid_columns)
  job.print(f"written to {path}")


def write_folder(path, videos, rows, provenance, fps, scale, grid_columns):
  """Replaces the folder of samples `path`; process 0 only.

  Args:
    videos: uint8 [N, T, H, W, 3].
    rows: {name: array [N, ...]}, the signals of the videos.
    provenance: what the videos were made of, JSON: `read_provenance` gives it back.
    fps, scale, grid_columns: as `run` takes them.
  """
  if jax.process_index():
    return
  with atomic.folder(path) as partial:
    for i, video in enumerate(videos):
      name = f"{i:05d}" + (f"_class{rows['label'][i]}" if "label" in rows else "")
      video_io.write_mp4(partial / f"{name}.mp4", video, fps, scale=scale)
    chosen, columns = select_grid_videos(videos, rows.get("label"), grid_columns)
    grid = video_io.video_grid(chosen, columns)
    video_io.write_gif(partial / "grid.gif", grid, fps, scale=scale)
    first = chosen.reshape(-1, columns, *chosen.shape[1:])[:, 0]
    video_io.write_png(partial / "grid.png", video_io.frame_sheet(first), scale=scale)
    np.savez_compressed(partial / VIDEOS, video=videos, **rows)
    meta = {"made_of": provenance, "count": len(videos)}
    job_lib.write_json(partial / "meta.json", meta)


def read_provenance(path):
  """What the samples in the folder `path` were made of, or None without any."""
  try:
    return json.loads((path / "meta.json").read_text())["made_of"]
  except (OSError, ValueError, KeyError):
    return None


class Preview:
  """(job, denoiser params, key) -> uint8 [N, T, H, W, 3], samples during training.

  Args:
    generator: a tasks.generator.Generator; its own weights are not opened.
    signals: as `run` takes them; one video for each row.
  """

  def __init__(self, *, generator, signals):
    self.generator, self.signals = generator, signals
    self.draw = jax.jit(generator.videos)

  def __call__(self, job, params, key):
    decoder = job.weights(self.generator.autoencoder_weights, "ema/autoencoder")
    params = {"denoiser": params, "autoencoder": decoder}
    rows = {name: np.asarray(x) for name, x in self.signals().items()}
    count = len(next(iter(rows.values())))
    size = batches.round_up(count, job.mesh, job.rules)
    with job.use_mesh():
      batch = job.put_batch(batches.pad_rows(rows, size)[0])
      return sharding.fetch(self.draw(params, batch, key))[:count]


def reconstruction_preview(job, params, key, *, task, source, count=8):
  """uint8 [2 * count, T, H, W, 3]: clips of `source`, each before its reconstruction.

  Args:
    job, key: not used; a preview of a training run has them.
    params: of the task.
    task: an Autoencoding.
    count: clips, the first of the source.
  """
  del job, key
  video = np.stack([source[i]["video"] for i in range(count)])
  made = video_io.to_uint8(task.reconstruct(params, video))
  return rearrange([video, np.asarray(made)], "two n t h w c -> (n two) t h w c")


def class_signals(*, num_classes, per_class):
  """Signals {"label": int32 [num_classes * per_class]}: each class in turn."""
  return {"label": np.repeat(np.arange(num_classes, dtype=np.int32), per_class)}


def unconditional_signals(*, count):
  """Signals {"index": int32 [count]} that an unconditional model ignores."""
  return {"index": np.arange(count, dtype=np.int32)}


def first_frame_signals(*, source, count):
  """Signals of the first frames of the first `count` records of encoded clips.

  Returns:
    {"image_latents": float32 [N, 1, h, w, c], those of the records or, where they have
    none, the mean of their first frame}, and those of SIGNALS that the records have,
    such as "image" [N, L, D], the tokens of an image encoder.
  """
  records = [source[i] for i in range(min(count, len(source)))]
  latents = [record.get("image_latents", record["mean"][:1]) for record in records]
  return stack_signals(records) | {"image_latents": np.float32(np.stack(latents))}


def low_resolution_signals(*, source, count, factor):
  """Signals of the first `count` clips of a source, made smaller by `factor`.

  Returns:
    {"low": uint8 [N, T, H / factor, W / factor, 3]}, and those of SIGNALS that the
    clips have.
  """
  records = [source[i] for i in range(min(count, len(source)))]
  low = np.stack([transforms.downsample(record["video"], factor) for record in records])
  return stack_signals(records) | {"low": low}


def stack_signals(records):
  """{name: array [N, ...]} of those of SIGNALS that a list of records has."""
  stacked = {k: np.stack([r[k] for r in records]) for k in SIGNALS if k in records[0]}
  half = lambda x: x.dtype == np.float16
  return {k: x.astype(np.float32) if half(x) else x for k, x in stacked.items()}


def load_low_resolution(*, path, factor=1):
  """Signals of a folder of samples, made smaller by `factor`, to be upsampled.

  Returns:
    {"low": uint8 [N, T, H / factor, W / factor, 3]}, and the samples' own signals.
  """
  with np.load(pathlib.Path(path) / VIDEOS, allow_pickle=False) as file:
    rows = dict(file)
  return {"low": transforms.downsample(rows.pop("video"), factor), **rows}


def select_grid_videos(videos, labels, columns):
  """(videos for a grid, its columns): the first videos of each class in a row.

  Args:
    videos: [N, ...].
    labels: int [N]; None: the first videos, in at most `columns` rows.
    columns: at most.
  """
  if labels is None:
    columns = min(columns, len(videos))
    rows = min(columns, len(videos) // columns)
    return videos[: rows * columns], columns
  members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
  columns = min([columns, *map(len, members)])
  return videos[np.concatenate([i[:columns] for i in members])], columns
