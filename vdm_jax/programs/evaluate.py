"""Scores samples, and real held-out clips like them; writes metrics.json."""

import jax
import numpy as np

from vdm_jax import video_io
from vdm_jax.metrics import score
from vdm_jax.programs import job as job_lib
from vdm_jax.programs import process_shards, sample


def run(
  job,
  *,
  real,
  train,
  metrics,
  samples="samples",
  autoencoder=None,
  autoencoder_weights=None,
  train_clips=4000,
  batch_size=50,
  stride=1,
  out="metrics.json",
):
  """Scores samples and held-out clips by the same metrics; writes <workdir>/<out>.

  The file is {metric: {"samples": score, "real": score}}; a score is {"value": float,
  "protocol": {...}}, or null. The same is printed as a table.

  Args:
    job: programs.job.Job: workdir, seed, mesh.
    real, train: held-out and training clips, [i] -> {"video": uint8 [T, H, W, 3]} and
      perhaps "label".
    metrics: functions metrics.score.EvaluationData -> [Row], clips -> rows of scores.
    samples: the folder of samples, under the workdir.
    autoencoder: Autoencoder whose reconstructions are scored, too; None: none.
    autoencoder_weights: the folder, under the workdir, of the stage that trained it.
    train_clips: number of training clips that metrics compare with.
    batch_size: clips that are reconstructed at a time.
    stride: data frames from one frame of a real clip to the next.
  """
  place = job.workdir / samples / sample.VIDEOS
  if not place.is_file():
    raise FileNotFoundError(f"There are no samples in {place}; sample first.")
  with np.load(place, allow_pickle=False) as file:
    made = score.LabelledVideos(
      videos=file["video"], labels=file["label"] if "label" in file else None
    )
  rng = np.random.default_rng(job.seed)
  held_out = draw_label_matched_clips(made, real, rng)
  first = range(min(train_clips, len(train)))
  learnt = load_labelled_videos(train, first)
  reconstructed = None
  if autoencoder is not None:
    params = job.weights(autoencoder_weights, "ema/autoencoder")
    reconstructed = _reconstruct(job, autoencoder, params, held_out.videos, batch_size)
  evidence = score.EvaluationData(
    samples=made,
    real=held_out,
    train=learnt,
    reconstructed=reconstructed,
    stride=stride,
    seed=job.seed,
  )
  rows = [row for metric in metrics for row in metric(evidence)]
  names = [row.name for row in rows]
  if len(set(names)) < len(names):
    raise ValueError(f"Two metrics have one name: {sorted(names)}.")
  scores = {
    row.name: {"samples": score.to_json(row.samples), "real": score.to_json(row.real)}
    for row in rows
  }
  job_lib.write_json(job.workdir / out, scores)
  job.print(f"{len(made)} samples, {len(held_out)} real clips; {job.workdir / out}")
  job.print_table([_cells(row) for row in rows])


def draw_label_matched_clips(clips, source, rng):
  """Real clips, as many as `clips`, with the same labels in the same order.

  They are chosen at random; a class that has too few clips repeats them.

  Args:
    clips: metrics.score.LabelledVideos; without labels, any real clips are taken.
    source: [i] -> {"video": uint8 [T, H, W, 3], "label": int}.
    rng: np.random.Generator.

  Returns:
    LabelledVideos: videos uint8 [N, T, H, W, 3], labels int [N] or None.

  Raises:
    ValueError: a class has no real clip.
  """
  if clips.labels is None:
    return load_labelled_videos(
      source, rng.permutation(np.resize(np.arange(len(source)), len(clips)))
    )
  labels = np.array([int(source[i]["label"]) for i in range(len(source))])
  chosen = np.zeros(len(clips), int)
  for label in np.unique(clips.labels):
    found = np.flatnonzero(labels == label)
    if not len(found):
      raise ValueError(
        f"The samples have the class {label}, of which the real clips hold none; "
        f"they hold {np.unique(labels).tolist()}."
      )
    wanted = clips.labels == label
    chosen[wanted] = np.resize(rng.permutation(found), wanted.sum())
  return load_labelled_videos(source, chosen)


def load_labelled_videos(source, indices):
  """Loads clips `indices` of a source as score.LabelledVideos.

  These have videos, uint8 [N, T, H, W, 3], and labels, int [N] or None.
  """
  records = [source[int(i)] for i in indices]
  labels = [r["label"] for r in records] if "label" in records[0] else None
  return score.LabelledVideos(
    videos=np.stack([r["video"] for r in records]),
    labels=None if labels is None else np.array(labels),
  )


def _reconstruct(job, autoencoder, params, videos, batch_size):
  @jax.jit
  def reconstruct(params, video):
    moments = autoencoder.encode(params, video_io.to_float(video))
    latents = autoencoder.latents(params, moments, None)
    return video_io.to_uint8(autoencoder.decode(params, latents))

  return process_shards.job_on_all_processes(job).map_batches(
    lambda batch: reconstruct(params, batch["video"]), {"video": videos}, batch_size
  )


def _cells(row):
  return {
    "": row.name,
    "samples": row.samples.value,
    "real clips": row.real.value if row.real else "",
  }
