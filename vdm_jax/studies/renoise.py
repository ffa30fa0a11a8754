"""At which noise level does a model lose what a metric measures?

Near no noise it has little to do; the level from which a score leaves that of the real
clips is the one to train more.
"""

import dataclasses
import functools

import jax
import numpy as np

from vdm_jax import log, sharding
from vdm_jax.programs import job as job_lib
from vdm_jax.studies import complete


def renoise_and_score(
  job,
  *,
  generator,
  source,
  judge,
  levels=(0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
  count=100,
  folder="renoise",
):
  """Noises real clips to several levels, denoises them from there and scores them.

  Writes <workdir>/<folder>: renoise.png and metrics.json, {"real": {score: number},
  "levels": {level: {score: number}}}; level 0 is the autoencoder's reconstruction.

  Args:
    job: programs.job.Job: workdir, seed, mesh.
    generator: tasks.generator.Generator; its times are multiplied by the level.
    source: real clips, [i] -> {"video": uint8 [T, H, W, 3], ...} with their signals.
    judge: (videos, real, labels, mask) -> {name: number or list}; uint8 videos
      [N, T, H, W, 3], labels int [N] or None, mask bool [T], all False.
    levels: of noise, fractions of the sampler's first time.
    count: number of clips, the first of the source.
  """
  params = generator.load(job)
  batch, real = complete.load_signals_and_videos(source, count)
  labels, mask = batch.get("label"), np.zeros(real.shape[1], bool)
  grid = np.asarray(generator.ts(generator.task.process))
  draw = jax.jit(functools.partial(_from_level, generator))
  measured = lambda made: dict(complete.scalar_scores(judge(made, real, labels, mask)))
  with job.use_mesh():
    encode = jax.jit(functools.partial(complete.encode_and_decode, generator))
    truth, rebuilt = encode(params, job.put_batch({"video": real})["video"])
    scores = {0.0: measured(sharding.fetch(rebuilt))}
    for level in levels:
      ts = grid * np.float32(level)
      made = draw(params, job.put_batch(batch), truth, ts, job.key())
      scores[float(level)] = measured(sharding.fetch(made))
  place = job.workdir / folder
  clean = measured(real)
  job_lib.write_json(place / "metrics.json", {"real": clean, "levels": scores})
  plot_scores(place / "renoise.png", scores, clean)
  job.print(f"{count} clips from {len(levels)} levels of noise, in {place}")
  job.print_table([{"level": level, **row} for level, row in scores.items()])


def _from_level(generator, params, batch, start, ts, key):
  generator = dataclasses.replace(generator, ts=ts, shape=start.shape[1:])
  return generator.videos(params, batch, key, start=start)


def plot_scores(path, scores, clean):
  """Saves a plot of {noise level: {score: number}}; `clean` are real clips' scores."""
  size = (3.2 * len(clean), 2.8)
  with log.plot_panels(path, len(clean), size) as axes:
    for ax, (name, value) in zip(axes, clean.items(), strict=True):
      ax.plot(list(scores), [row[name] for row in scores.values()], ".-")
      if np.isfinite(value):
        ax.axhline(value, color="tab:orange", linestyle="--")
      ax.set_title(name, fontsize=9)
      ax.set_xlabel("from this level of noise", fontsize=8)
      ax.grid(alpha=0.3)
