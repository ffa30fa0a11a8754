"""Videos of a published model, from its folder and prompts."""

import json
import math
import pathlib

import jax
import numpy as np

from vdm_jax import config, log, pipeline, sharding
from vdm_jax.programs import sample


def run(
  job,
  *,
  pretrained,
  prompts,
  negative="",
  autoencoder="vae",
  num_frames=None,
  height=None,
  width=None,
  steps=50,
  guidance=7.5,
  dtype="float32",
  batch_size=1,
  folder="samples",
  fps=8,
  grid_columns=4,
):
  """Writes <workdir>/<folder>, as `sample.run` does: a video for each prompt.

  Args:
    pretrained: the folder, with model_index.json.
    prompts: a text or several, or the path of a text file with one in each line; class
      ids or names for a model of classes.
    negative: what guidance leads away from.
    autoencoder: the folder of the decoder among the model's.
    num_frames, height, width, steps, guidance: see pipeline.Pipeline.
    dtype: of weights and computation.
    batch_size: videos at a time, at least; as many more as the mesh splits evenly.
  """
  texts = read(prompts)
  made_of = {
    "weights": _digest(pretrained),
    "settings": config.fingerprint(job.settings, texts, job.seed),
  }
  place = job.workdir / folder
  if sample.made_with(place) == made_of:
    job.say(f"these samples are there already, in {place}")
    return
  job.say(f"opens {pretrained}")
  model = pipeline.load(
    pretrained,
    autoencoder=autoencoder,
    dtype=np.dtype(dtype),
    mesh=job.mesh,
    rules=job.rules,
  )
  job.say(f"{len(texts)} videos, {steps} steps each")
  axes = sharding.batch_axes(job.mesh, job.rules)
  devices = math.prod(job.mesh.shape[axis] for axis in axes)
  batch_size = math.ceil(batch_size / devices) * devices
  progress, parts = log.Progress(len(texts), name=job.stage), []
  for first in range(0, len(texts), batch_size):
    part = texts[first : first + batch_size]
    padded = part + part[-1:] * (batch_size - len(part))  # one shape to compile
    with job.devices():
      videos = model(
        padded,
        key=jax.random.fold_in(job.key(), first),
        num_frames=num_frames,
        steps=steps,
        guidance=guidance,
        negative=negative,
        height=height,
        width=width,
      )
    parts.append(videos[: len(part)])
    progress.update(first + len(part), {})
  progress.close()
  rows = {"prompt": np.array([str(text) for text in texts])}
  sample.write(place, np.concatenate(parts), rows, made_of, fps, 1, grid_columns)
  job.say(f"written to {place}")


def read(prompts):
  """The list of prompts that a config means."""
  if not isinstance(prompts, str):
    prompts = list(prompts)
  elif prompts.endswith(".txt"):
    lines = pathlib.Path(prompts).read_text().splitlines()
    prompts = [line.strip() for line in lines if line.strip()]
  else:
    prompts = [prompts] if prompts.strip() else []
  if not prompts:
    raise ValueError(
      'There is no prompt; give --config.prompts="a dog in the snow", or the path of a '
      ".txt file with one in each line."
    )
  return prompts


def _digest(folder):
  """What changes when a file of the folder does; gigabytes are not read for it."""
  folder = pathlib.Path(folder)
  if not folder.is_dir():
    raise FileNotFoundError(
      f"{str(folder)!r}: there is no such folder; give --config.pretrained, the folder "
      "of a published model with model_index.json."
    )
  files = sorted(path for path in folder.rglob("*") if path.is_file())
  stat = lambda path: (path.stat().st_size, path.stat().st_mtime_ns)
  found = [(str(path.relative_to(folder)), *stat(path)) for path in files]
  return config.fingerprint(json.dumps(found))
