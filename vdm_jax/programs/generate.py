"""Videos of a published model, from its folder and prompts or pictures."""

import json
import math
import pathlib

import jax
import numpy as np

from vdm_jax import config, log, sharding
from vdm_jax.data import texts
from vdm_jax.pipelines import pipeline
from vdm_jax.programs import sample

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


def run(
  job,
  *,
  pretrained,
  prompts="",
  pictures="",
  motion="",
  autoencoder="vae",
  num_frames=0,
  height=0,
  width=0,
  steps=0,
  guidance=(),
  negative="",
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
    pictures: in place of prompts, for a model of pictures: a path or several, or a
      folder of them.
    motion, autoencoder: see pipeline.load.
    num_frames, height, width, steps, negative: see pipeline.Pipeline and
      image_pipeline.ImagePipeline, whose own are used for 0 and "".
    guidance: a number; for pictures two, at the first frame and at the last; () for the
      pipeline's own.
    dtype: of weights and computation.
    batch_size: videos at a time, at least; as many more as the mesh splits evenly.
  """
  asked = inputs(prompts, pictures)
  made_of = {
    "weights": [_digest(name) for name in (pretrained, *([motion] if motion else []))],
    "settings": config.fingerprint(job.settings, list(map(str, asked)), job.seed),
  }
  place = job.workdir / folder
  if sample.read_provenance(place) == made_of:
    job.print(f"these samples are there already, in {place}")
    return
  job.print(f"opens {pretrained}")
  model = pipeline.load(
    pretrained,
    autoencoder=autoencoder,
    motion=motion or None,
    dtype=np.dtype(dtype),
    mesh=job.mesh,
    rules=job.rules,
  )
  other = "prompts" if pictures else "pictures"
  if bool(pictures) != isinstance(model, pipeline.ImagePipeline):
    raise ValueError(
      f"{pretrained} makes videos of {other}: give --config.{other}, and nothing else."
    )
  job.print(f"{len(asked)} videos")
  settings = dict(num_frames=num_frames, height=height, width=width)
  settings |= dict(steps=steps, negative=negative)
  settings = {name: value for name, value in settings.items() if value}
  settings |= strength(guidance, pictures)
  axes = sharding.batch_axes(job.mesh, job.rules)
  devices = math.prod(job.mesh.shape[axis] for axis in axes)
  batch_size = math.ceil(batch_size / devices) * devices
  progress, parts = log.Progress(len(asked), name=job.stage), []
  for first in range(0, len(asked), batch_size):
    part = asked[first : first + batch_size]
    padded = part + part[-1:] * (batch_size - len(part))  # one shape to compile
    with job.use_mesh():
      key = jax.random.fold_in(job.key(), first)
      videos = model(padded, key=key, **settings)
    parts.append(videos[: len(part)])
    progress.update(first + len(part), {})
  progress.close()
  rows = {"prompt": np.array([str(text) for text in asked])}
  sample.write_folder(place, np.concatenate(parts), rows, made_of, fps, 1, grid_columns)
  job.print(f"written to {place}")


def strength(guidance, pictures):
  """{"guidance": what the pipeline takes: one number, or two}, or {} for its own."""
  told = guidance if isinstance(guidance, tuple | list) else (guidance,)
  if len(told) > 1 + bool(pictures):
    raise ValueError(f"guidance={guidance}; give one number, or two for pictures.")
  if not told:
    return {}
  return {"guidance": (told[0], told[-1]) if pictures else told[0]}


def inputs(prompts, pictures):
  """The list of prompts, or of paths of pictures; exactly one of them is given."""
  if not pictures:
    return read(prompts)
  if prompts:
    raise ValueError("Give prompts or pictures, not both.")
  if not isinstance(pictures, str):
    return [pathlib.Path(path) for path in pictures]
  path = pathlib.Path(pictures)
  if not path.exists():
    raise FileNotFoundError(f"{path}: there is no such picture, nor folder of them.")
  if path.is_file():
    return [path]
  found = sorted(p for p in path.iterdir() if p.suffix.lower() in PICTURES)
  if not found:
    raise FileNotFoundError(f"{path} has no pictures ({', '.join(PICTURES)}).")
  return found


def read(prompts):
  """The list of prompts that a config means."""
  prompts = texts.parse_prompts(prompts)
  if not prompts:
    raise ValueError(
      'There is no prompt; give --config.prompts="a dog in the snow", or the path of a '
      ".txt file with one in each line; for a model of pictures, --config.pictures."
    )
  return prompts


def _digest(folder):
  """What changes when a file of the folder does; gigabytes are not read for it."""
  name, folder = str(folder), pathlib.Path(folder)
  if not name or not folder.is_dir():
    raise FileNotFoundError(
      f"{name!r}: there is no such folder; give --config.pretrained, the folder "
      "of a published model with model_index.json."
    )
  files = sorted(path for path in folder.rglob("*") if path.is_file())
  stat = lambda path: (path.stat().st_size, path.stat().st_mtime_ns)
  found = [(str(path.relative_to(folder)), *stat(path)) for path in files]
  return config.fingerprint(json.dumps(found))
