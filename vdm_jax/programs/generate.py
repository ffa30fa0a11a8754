"""Videos of a published model, from its folder and prompts or images."""

import json
import pathlib

import numpy as np

from vdm_jax import batches, config, log
from vdm_jax.data import texts
from vdm_jax.data.folders import PICTURES
from vdm_jax.pipelines import load
from vdm_jax.programs import sample


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
  """Samples videos from a published model and writes them to <workdir>/<folder>.

  The folder has an mp4 for each, grid.gif, grid.png, videos.npz and meta.json. One of
  the same weights and settings is kept.

  Args:
    job: programs.job.Job: workdir, seed, mesh.
    pretrained: the model's folder, with model_index.json.
    prompts: a text, several, or a .txt file with one in each line; class ids or names
      for a class-conditional model.
    pictures: for an image-to-video model: path of an image, several, or a folder of
      them; one for each prompt if the model takes both.
    motion: folder of a motion adapter (AnimateDiff) for Stable Diffusion 1, or "".
    autoencoder: sub-folder of the decoder.
    num_frames, height, width: of a video, in frames and pixels; 0: the model's default.
    steps: network evaluations of a video; 0: the model's default.
    guidance: a scale, or two, of the first frame and the last; (): the model's default.
    negative: negative prompt; "": the model's default.
    dtype: of weights and computation.
    batch_size: videos at a time, rounded up to what the mesh splits evenly.
    fps: frames a second of the files.
    grid_columns: videos in a row of the grids.
  """
  values = read_inputs(prompts, pictures)
  made_of = {
    "weights": [_digest(name) for name in (pretrained, *([motion] if motion else []))],
    "settings": config.fingerprint(
      job.settings, *([str(x) for x in value] for value in values.values()), job.seed
    ),
  }
  place = job.workdir / folder
  if sample.read_provenance(place) == made_of:
    job.print(f"these samples are there already, in {place}")
    return
  job.print(f"opens {pretrained}")
  model = load.load(
    pretrained,
    autoencoder=autoencoder,
    motion=motion or None,
    dtype=np.dtype(dtype),
    mesh=job.mesh,
    rules=job.rules,
  )
  names = [x.name for x in model.inputs]
  if set(names) != set(values):
    wanted = " and ".join(f"--config.{name}" for name in names)
    raise ValueError(
      f"{pretrained} makes videos of {' and '.join(names)}: give {wanted}, and nothing "
      "else."
    )
  count = len(values[names[0]])
  job.print(f"{count} videos")
  settings = dict(num_frames=num_frames, height=height, width=width)
  settings |= dict(steps=steps, negative=negative)
  settings = {name: value for name, value in settings.items() if value}
  settings |= guidance_kwargs(guidance)
  batch_size = batches.round_up_batch_size(batch_size, job.mesh, job.rules)
  progress = log.Progress(count, name=job.stage)

  def draw(batch, key):
    with job.use_mesh():
      return model(**{k: list(x) for k, x in batch.items()}, key=key, **settings)

  videos = batches.iterate_batches(
    draw,
    {name: np.array(x, object) for name, x in values.items()},
    batch_size,
    key=job.key(),
    update=lambda done: progress.update(done, {}),
  )
  rows = {"prompt": np.array([str(x) for x in values[names[0]]])}
  sample.write_samples_folder(place, videos, rows, made_of, fps, 1, grid_columns)
  progress.close()
  job.print(f"written to {place}")


def guidance_kwargs(guidance):
  """A pipeline's argument {"guidance": scale or (first, last frame's)}; {} for ()."""
  scales = guidance if isinstance(guidance, tuple | list) else (guidance,)
  if len(scales) > 2:
    raise ValueError(
      f"guidance={guidance}; give one number, or two, of the first frame and the last."
    )
  return {"guidance": scales if len(scales) > 1 else scales[0]} if scales else {}


def read_inputs(prompts, pictures):
  """{"prompts": list of str, "pictures": list of pathlib.Path}, only what is given.

  Args:
    prompts: a text, several, or a .txt file; needed where there are no pictures.
    pictures: path of an image, several, or a folder of images; "" or () for none.
  """
  if not pictures:
    return {"prompts": read_nonempty_prompts(prompts)}
  given = {"prompts": read_nonempty_prompts(prompts)} if prompts else {}
  return given | {"pictures": _paths(pictures)}


def _paths(pictures):
  """Paths of one image, of several, or of all in a folder."""
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


def read_nonempty_prompts(prompts):
  """A list of prompts of a text, several, or a .txt file; a ValueError if empty."""
  prompts = texts.read_prompts(prompts)
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
