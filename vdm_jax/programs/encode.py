"""Encodes clips to the moments of their latents, once for all training runs."""

import functools
import time

import jax
import numpy as np

from vdm_jax import config, log, sharding
from vdm_jax.data import loader as loader_lib
from vdm_jax.data import records
from vdm_jax.programs import job as job_lib
from vdm_jax.programs import process_shards
from vdm_jax.tasks import autoencoding


def run(
  job,
  *,
  source,
  autoencoder,
  weights,
  batch_size,
  image_encoder=None,
  folder="latents",
  num_workers=0,
):
  """Encodes clips to latents once, for all runs, and writes <workdir>/<folder>.

  A record is {"mean", "logvar": float16 [t, h, w, c]}, the moments of the latents, and
  all entries of the clip but "video"; meta.json has their "shift", "scale" and the
  "classes". A folder of the same weights and settings is kept, another is refused.

  Args:
    job: programs.job.Job; each process encodes a share of the clips on its own devices.
    source: clips, [i] -> {"video": uint8 [T, H, W, 3], ...}, or stored latents as
      videos (data.transforms.LatentMeanToVideo) for an autoencoder of latents.
    autoencoder: autoencoders.base.Autoencoder.
    weights: the folder, under the workdir, of the stage that trained it.
    batch_size: clips at a time in each process.
    image_encoder: uint8 [N, H, W, 3] -> [N, L, D], applied to the first frames, whose
      tokens are stored as "image", float16 [L, D]; None: no "image".
    num_workers: processes that load clips; 0: threads of this one.
  """
  params = job.weights(weights, "ema/autoencoder")
  made_of = {
    "weights": job_lib.digest(params),
    "settings": config.fingerprint(job.settings),
    "clips": len(source),
  }
  if image_encoder:
    made_of["image_encoder"] = job_lib.digest(image_encoder.network.params)
  place = job.workdir / folder
  if is_written(job, place, made_of, "clips are encoded"):
    return

  apply = lambda params, batch: autoencoder.encode(
    params, autoencoding.float_video(batch)
  )
  skipped = f".{jax.process_index()}" if jax.process_index() else ""
  clips = loader_lib.Loader(
    source,
    batch_size,
    shuffle=False,
    repeat=False,
    num_workers=num_workers,
    skipped_file=job.workdir / f"{folder}.skipped{skipped}.jsonl",
  )
  stats = {k: sharding.fetch(params["latents"][k]).tolist() for k in ("shift", "scale")}
  here = process_shards.local_job(job)
  encode = functools.partial(jax.jit(apply), here.to_mesh(sharding.fetch(params)))
  start = time.monotonic()
  progress = log.Progress(len(source), name=job.stage)

  def fill(writer, batches):
    clips.set_state({**clips.get_state(), "position": batches.start * batch_size})
    count = 0
    for batch in clips:
      if clips.get_state()["position"] > batches.stop * batch_size:
        break
      video = batch.pop("video")
      half = {"image": image_encoder(video[:, 0])} if image_encoder else {}
      moments = here.map_batches(encode, {"video": video}, batch_size)
      half |= {"mean": moments.mean, "logvar": moments.logvar}
      batch |= {k: x.astype(np.float16) for k, x in half.items()}
      for i in range(len(video)):
        writer.write({k: x[i] for k, x in batch.items()})
      count += len(video)
      progress.update(count, {})
    clips.close()

  meta = {**stats, "classes": source.classes}
  process_shards.write_records(place, made_of, meta, len(clips), fill)
  progress.close()
  count = records.read_meta(place)["count"]
  job.print(
    f"{count} clips in {time.monotonic() - start:.1f} s. {clips.report.summary()}"
  )


def is_written(job, path, provenance, description):
  """Whether the folder of records `path` exists, and has this provenance.

  Args:
    job: programs.job.Job, which prints that it exists.
    path: pathlib.Path.
    provenance: JSON dict, what the folder's meta.json must have as "settings".
    description: of the records, for the message: "clips are encoded".

  Raises:
    ValueError: the folder has another provenance.
  """
  if not path.exists():
    return False
  made = records.read_meta(path)
  if made["settings"] == provenance:
    job.print(f"{made['count']} {description} already, in {path}")
    return True
  before = made["settings"]
  names = sorted({*before, *provenance})
  changed = [k for k in names if before.get(k) != provenance.get(k)]
  raise ValueError(
    f"{path} was made with other {' and '.join(changed)}; delete the folder, or give "
    "another --workdir."
  )
