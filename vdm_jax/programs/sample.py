"""Samples videos, and writes and reads folders of samples."""

import collections
import functools
import itertools
import json
import pathlib
import zipfile

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
  """Samples a video for each row of signals and writes them to <workdir>/<folder>.

  The folder has an mp4 for each video, grid.gif and grid.png of some, videos.npz with
  "video", uint8 [N, T, H, W, 3], and the signals, and meta.json. It is replaced as a
  whole when weights or settings have changed.

  Args:
    job: programs.job.Job: workdir, seed, mesh.
    generator: tasks.generator.Generator, or a programs.chain.Chain of several passes.
    signals: () -> {name: array [N, ...]}, the conditions of N videos.
    batch_size: videos at a time, rounded up to what the mesh splits evenly.
    fps, scale: frames a second and integer enlargement of the files.
    grid_columns: videos in a row of the grids; of each class, if there are labels.
  """
  params, draw = generator.load(job), jax.jit(generator.videos_and_finite)
  path, provenance = job.workdir / folder, job.provenance(params)
  if read_provenance(path) == provenance:
    job.print(f"these samples are there already, in {path}")
    return
  rows = {name: np.asarray(x) for name, x in signals().items()}
  job.print(f"{len(next(iter(rows.values())))} videos")
  draw = functools.partial(draw, params)
  videos = finite_videos(job.iterate_batches(draw, rows, batch_size, key=job.key()))
  write_samples_folder(path, videos, rows, provenance, fps, scale, grid_columns)
  job.print(f"written to {path}")


def finite_videos(batches):
  """Yields the videos of (videos, finite), or raises a FloatingPointError.

  `finite` is as Generator.videos_and_finite has it.
  """
  first = 0
  for videos, finite in batches:
    video_io.check_finite(finite, first)
    first += len(videos)
    yield videos


def write_samples_folder(path, videos, signals, provenance, fps, scale, grid_columns):
  """Writes or replaces a folder of mp4s, grids, videos.npz, meta.json; process 0 only.

  Of all videos but those of the grids one batch is held at a time.

  Args:
    path: pathlib.Path of the folder.
    videos: an iterator of batches of them, uint8 [b, T, H, W, 3].
    signals: {name: array [N, ...]}, the conditions of the videos.
    provenance: JSON, stored in meta.json.
    fps, scale: frames a second and integer enlargement of the files.
    grid_columns: videos in a row of the grids; of each class, if there are labels.
  """
  if jax.process_index():
    collections.deque(videos, maxlen=0)  # all processes compute them together
    return
  labels, count = signals.get("label"), len(next(iter(signals.values())))
  indices, columns = grid_indices_and_columns(count, labels, grid_columns)
  with atomic.folder(path) as partial:
    kept = {}

    def write_and_keep():
      for i, video in enumerate(itertools.chain.from_iterable(videos)):
        name = f"{i:05d}" + ("" if labels is None else f"_class{labels[i]}")
        video_io.write_mp4(partial / f"{name}.mp4", video, fps, scale=scale)
        if i in indices:
          kept[i] = video
        yield video

    _write_npz(partial / VIDEOS, count, write_and_keep(), signals)
    chosen = np.stack([kept[i] for i in indices])
    grid = video_io.video_grid(chosen, columns)
    video_io.write_gif(partial / "grid.gif", grid, fps, scale=scale)
    sheet = video_io.frame_sheet(chosen[::columns])
    video_io.write_png(partial / "grid.png", sheet, scale=scale)
    meta = {"made_of": provenance, "count": count}
    job_lib.write_json(partial / "meta.json", meta)


def _write_npz(path, count, videos, arrays):
  """What np.savez_compressed(path, video=[count, ...], **arrays) would, one by one."""
  with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
    member = lambda name: archive.open(f"{name}.npy", "w", force_zip64=True)
    with member("video") as file:
      for i, video in enumerate(videos):
        if i == 0:
          header = np.lib.format.header_data_from_array_1_0(video)
          header["shape"] = (count, *video.shape)
          np.lib.format.write_array_header_1_0(file, header)
        file.write(np.ascontiguousarray(video).tobytes())
    for name, x in arrays.items():
      with member(name) as file:
        np.lib.format.write_array(file, x, allow_pickle=False)


def read_provenance(path):
  """The dict "made_of" of a folder of samples, a pathlib.Path; None: not readable."""
  try:
    return json.loads((path / "meta.json").read_text())["made_of"]
  except (OSError, ValueError, KeyError):
    return None


class Preview:
  """Samples videos during training: (job, params, key) -> uint8 [N, T, H, W, 3].

  `job` is a programs.job.Job, `params` are the denoiser's.

  Args:
    generator: tasks.generator.Generator; only its autoencoder's weights are loaded.
    signals: () -> {name: array [N, ...]}, the conditions of N videos.
  """

  def __init__(self, *, generator, signals):
    self.generator, self.signals = generator, signals
    self.draw = jax.jit(generator.videos)

  def __call__(self, job, params, key):
    decoder = job.weights(self.generator.autoencoder_weights, "ema/autoencoder")
    params = {"denoiser": params, "autoencoder": decoder}
    rows = {name: np.asarray(x) for name, x in self.signals().items()}
    count = len(next(iter(rows.values())))
    size = batches.round_up_batch_size(count, job.mesh, job.rules)
    with job.use_mesh():
      batch = job.put_batch(batches.pad_rows_and_count(rows, size)[0])
      return sharding.fetch(self.draw(params, batch, key))[:count]


def reconstruction_preview(job, params, key, *, task, source, count=8):
  """Clips and their reconstructions, alternating: uint8 [2 * count, T, H, W, 3].

  Args:
    job, key: not used; every preview of a training run has them.
    params: of the task.
    task: tasks.autoencoding.Autoencoding.
    source: [i] -> {"video": uint8 [T, H, W, 3]}, of whose clips the first `count`, or
      all of fewer, are used.
  """
  del job, key
  video = np.stack([source[i]["video"] for i in range(min(count, len(source)))])
  pixels = lambda params, x: video_io.to_uint8(task.reconstruct(params, x))
  made = np.asarray(jax.jit(pixels)(params, video))
  return rearrange([video, made], "two n t h w c -> (n two) t h w c")


def class_signals(*, num_classes, per_class):
  """{"label": int32 [num_classes * per_class]}: `per_class` labels of each class."""
  return {"label": np.repeat(np.arange(num_classes, dtype=np.int32), per_class)}


def unconditional_signals(*, count):
  """{"index": int32 [count]}: 0 .. count - 1, no condition, as many videos."""
  return {"index": np.arange(count, dtype=np.int32)}


def first_frame_signals(*, source, count):
  """Signals for image-to-video sampling, from the first `count` clips of a source.

  Args:
    source: [i] -> {"mean": [t, h, w, c], ...}, records of latents, or clips.

  Returns:
    {"image_latents": float32 [N, 1, h, w, c]} of records of latents, their own or the
    mean of their first frame, and those of "label", "image" (tokens [N, L, D]), "text",
    "text_mask", "negative", "negative_mask" that the records have.
  """
  records = [source[i] for i in range(min(count, len(source)))]
  signals = stack_signals(records)
  if "mean" in records[0]:
    latents = [record.get("image_latents", record["mean"][:1]) for record in records]
    signals["image_latents"] = np.float32(np.stack(latents))
  return signals


def low_resolution_signals(*, source, count, factor):
  """Signals for super-resolution: a source's first `count` clips, smaller by `factor`.

  Returns:
    {"low": uint8 [N, T, H / factor, W / factor, 3]}, and those of "label", "image",
    "text", "text_mask", "negative", "negative_mask" that the clips have.
  """
  records = [source[i] for i in range(min(count, len(source)))]
  low = np.stack([transforms.downsample(record["video"], factor) for record in records])
  return stack_signals(records) | {"low": low}


def stack_signals(records):
  """{name: array [N, ...]} of the conditions in a list of N records.

  These are "label", "image", "text", "text_mask", "negative" and "negative_mask", where
  the records have them; float16 becomes float32.
  """
  stacked = {k: np.stack([r[k] for r in records]) for k in SIGNALS if k in records[0]}
  half = lambda x: x.dtype == np.float16
  return {k: x.astype(np.float32) if half(x) else x for k, x in stacked.items()}


def low_resolution_signals_of_samples(*, path, factor=1):
  """Signals for super-resolution: a folder of samples, downsampled by `factor`.

  Returns:
    {"low": uint8 [N, T, H / factor, W / factor, 3]}, and the samples' own signals.
  """
  with np.load(pathlib.Path(path) / VIDEOS, allow_pickle=False) as file:
    rows = dict(file)
  return {"low": transforms.downsample(rows.pop("video"), factor), **rows}


def grid_indices_and_columns(count, labels, columns):
  """(indices of the videos of a grid, its columns): a row for each class.

  Args:
    count: of all videos.
    labels: int [count]; None: the first videos, in at most `columns` rows.
    columns: the most videos in a row.
  """
  if labels is None:
    columns = min(columns, count)
    return list(range(min(columns, count // columns) * columns)), columns
  members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
  columns = min([columns, *map(len, members)])
  return np.concatenate([i[:columns] for i in members]).tolist(), columns
