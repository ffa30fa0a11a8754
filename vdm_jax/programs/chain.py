"""Long videos in passes: each fills in between the frames that the one before left.

  LVDM              few frames, one window after another; then all between them
  AlignYourLatents  T key frames at once, then 4 T, then 16 T

https://arxiv.org/abs/2211.13221 section 3.3, https://arxiv.org/abs/2304.08818
section 3.2. A pass has a sampler, `long_video.rollout` of a plan if it takes windows.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vdm_jax import config, log, sharding
from vdm_jax.programs import job as job_lib
from vdm_jax.programs import process_shards, sample


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pass:
  """One pass over the video.

  Attributes:
    num_frames: of its video.
    sampler, ts, wrappers: see diffusion/.
    every: the frames of the pass before stand at 0, every, 2 every ... of this one; 0
      for the first pass.
    signals: {name: number}, for all videos, such as the frame rate.
    task, weights: if they are not those of the whole chain.
  """

  num_frames: int
  sampler: Callable
  ts: Any
  wrappers: tuple = ()
  every: int = 0
  signals: Mapping[str, float] = dataclasses.field(default_factory=dict)
  task: Any = None
  weights: Any = None


def run(
  job,
  *,
  passes,
  task,
  weights,
  autoencoder,
  autoencoder_weights,
  signals,
  size,
  batch_size=50,
  folder="long",
  fps=8,
  scale=1,
  grid_columns=8,
):
  """Writes <workdir>/<folder>, as `sample.run` does, the videos of the last pass.

  Args:
    passes: [Pass], or a dict of them, whose names are sorted.
    task, weights: of passes that have none of their own.
    autoencoder, autoencoder_weights, signals, batch_size, fps, scale, grid_columns: see
      `sample.run`.
    size: [h, w, c] of a frame's latents.
  """
  if isinstance(passes, Mapping):
    passes = [passes[name] for name in sorted(passes)]
  check(passes)
  tasks = [one.task or task for one in passes]
  params = [job.weights(one.weights or weights) for one in passes]
  decoder = job.weights(autoencoder_weights, "ema/autoencoder")
  made_of = {
    "weights": [job_lib.digest(p) for p in params],
    "autoencoder": job_lib.digest(decoder),
    "settings": config.fingerprint(job.settings, job.seed),
  }
  place = job.workdir / folder
  if sample.made_with(place) == made_of:
    job.print(f"these videos are there already, in {place}")
    return
  draws = [jax.jit(drawer(t, one, size)) for t, one in zip(tasks, passes, strict=True)]
  decode = jax.jit(lambda params, x: sample.to_uint8(autoencoder.decode(params, x)))
  rows = {k: np.asarray(v) for k, v in signals().items()}
  count = len(next(iter(rows.values())))
  whole = process_shards.round_up(batch_size, job.mesh, job.rules)
  lengths = " -> ".join(str(one.num_frames) for one in passes)
  job.print(f"{count} videos of {lengths} frames")
  progress, parts = log.Progress(count, name=job.stage), []
  for first in range(0, count, batch_size):
    part = {k: v[first : first + batch_size] for k, v in rows.items()}
    batch, real = job_lib.pad(part, whole)
    key, x = jax.random.fold_in(job.key(), first), None
    with job.use_mesh():
      batch = job.put_batch(batch)
      for n, draw in enumerate(draws):
        x = draw(params[n], batch, x, jax.random.fold_in(key, n))
      videos = decode(decoder, x)
    parts.append(sharding.fetch(videos)[:real])
    progress.update(first + real, {})
  progress.close()
  videos = np.concatenate(parts)
  sample.write(place, videos, rows, made_of, fps, scale, grid_columns)
  job.print(f"written to {place}")


def check(passes):
  """Refuses passes that do not follow one another."""
  if not passes:
    raise ValueError("passes are empty; give at least one Pass.")
  before = 0
  for n, one in enumerate(passes):
    if (one.every > 0) != (n > 0):
      raise ValueError(
        f"Pass {n} has every={one.every}; the first pass has 0, and each other one "
        "says at which of its frames those of the pass before stand."
      )
    wanted = len(range(0, one.num_frames, one.every)) if n else 0
    if wanted > before:
      raise ValueError(
        f"Pass {n} of {one.num_frames} frames, every={one.every}, needs {wanted} "
        f"frames of the pass before, which has {before}."
      )
    before = one.num_frames


def drawer(task, one, size):
  """(params, batch, latents of the pass before, key) -> latents of this pass."""

  def draw(params, batch, before, key):
    count = len(next(iter(batch.values())))
    signals = {k: np.full(count, v, np.float32) for k, v in one.signals.items()}
    shape = (count, one.num_frames, *size)
    given = {}
    if one.every:
      places = np.arange(0, one.num_frames, one.every)
      mask = np.isin(np.arange(one.num_frames), places)
      known = jnp.zeros(shape).at[:, places].set(before[:, : len(places)])
      given = dict(known=known, mask=mask)
    return task.sample(
      params,
      batch | signals,
      shape,
      key,
      sampler=one.sampler,
      ts=one.ts,
      wrappers=one.wrappers,
      **given,
    )

  return draw
