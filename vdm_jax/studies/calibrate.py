"""Measures how the residual of all blocks changes from call to call, for MagCache.

A second config, or a later stage of the same, plans by the ratios:

  plan = c.bind(caching.mag_cache, threshold=0.06,
    ratios=c.call(calibrate.read_mag_cache_ratios, folder="{workdir}/calibration"))
  wrappers = (c.bind(denoise.cached, plan=plan), guide)

https://arxiv.org/abs/2506.09045. The ratios belong to a model, its sampler and grid;
with fewer steps the nearest ones count.
"""

import collections
import dataclasses
import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from vdm_jax.diffusion import caching
from vdm_jax.diffusion import denoise as d
from vdm_jax.programs import job as job_lib

FILE = "ratios.json"


def measure_mag_cache_ratios(
  job,
  *,
  generator,
  signals,
  batch_size=50,
  folder="calibration",
):
  """Samples, measures MagCache's ratios and writes <workdir>/<folder>/ratios.json.

  The file has "ratios", a number for each call of the network: the mean of |r_i| /
  |r_{i-1}| over tokens and videos, r being what all blocks add to their input.

  Args:
    job: programs.job.Job: workdir, seed, mesh.
    generator: tasks.generator.Generator, without a step cache among its wrappers.
    signals: () -> {name: array [N, ...]}, the conditions of N videos.
    batch_size: videos at a time.
  """
  params = {"denoiser": job.weights(generator.weights)}
  provenance = job.provenance(params)
  path = job.workdir / folder / FILE
  if path.is_file() and json.loads(path.read_text()).get("made_of") == provenance:
    job.print(f"these ratios are there already, in {path}")
    return
  found = collections.defaultdict(list)
  note = lambda call, ratio: found[int(call)].append(float(ratio))
  watched = functools.partial(
    d.cached, plan=caching.keep_all_modes, on_update=functools.partial(_compare, note)
  )

  generator = dataclasses.replace(generator, wrappers=(watched, *generator.wrappers))
  draw = jax.jit(generator.latents)
  rows = {name: np.asarray(x) for name, x in signals().items()}
  batch_size = min(batch_size, len(next(iter(rows.values()))))
  sample = lambda batch, key: draw(params, batch, key)
  job.map_batches(sample, rows, batch_size, key=job.key())
  jax.effects_barrier()
  # The first call has nothing before it.
  ratios = [1.0, *(float(np.mean(found[i])) for i in range(1, len(found)))]
  job_lib.write_json(path, {"ratios": ratios, "made_of": provenance})
  far = max(abs(1.0 - ratio) for ratio in ratios)
  job.print(f"{len(ratios)} calls, ratios at most {far:.3f} from 1, in {path}")


def read_mag_cache_ratios(folder):
  """MagCache's measured ratios, a tuple of floats, one for each call of the network.

  Args:
    folder: with the ratios.json that a calibration wrote.

  Raises:
    FileNotFoundError: it has none.
  """
  place = pathlib.Path(folder) / FILE
  if not place.is_file():
    raise FileNotFoundError(
      f"There are no ratios in {place}; run the stage that calibrates first."
    )
  return tuple(json.loads(place.read_text())["ratios"])


def _compare(note, call, old, new):
  """Notes the mean ratio of the tokens' lengths in this call and the one before."""
  length = lambda x: jnp.linalg.norm(x.astype(jnp.float32), axis=-1)
  ((path, now),) = new.items()
  ratio = jnp.mean(length(now) / (length(old[path]) + 1e-8))
  jax.debug.callback(note, call, ratio)
