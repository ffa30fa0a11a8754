"""Opens a published model from its folder, as diffusers writes it.

  pipeline = load("Latte-1")  # or AnimateDiff's, ModelScope's, DiT's
  video = pipeline(["a dog in the snow"], steps=50, guidance=7.5, key=key)
  pipeline = load("stable-video-diffusion-img2vid")
  video = pipeline(["dog.jpg"], key=key)
  pipeline = load("i2vgen-xl")
  video = pipeline(["a dog runs"], ["dog.jpg"], key=key)

model_index.json names the components, each in a folder of its own. Every component is
one of ours: the task is a LatentDiffusion like those that are trained here.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from vdm_jax import pretrained
from vdm_jax.conditioners import conditioner
from vdm_jax.pipelines import (
  frozen_network,
  image_encoder,
  inputs,
  pipeline,
  text_encoder,
)
from vdm_jax.pretrained import config_json
from vdm_jax.pretrained.tables.unet import motion_adapter
from vdm_jax.tasks import latent_diffusion

INDEX = "model_index.json"


@dataclasses.dataclass(frozen=True)
class PipelineSpec:
  """What is known of a published pipeline besides its files.

  Attributes:
    inputs: functions (PublishedFolder) -> an input, such as inputs.PromptInput.
    drop: names of the signals that guidance leaves out, all together.
    network: the folder of its denoising network.
    num_frames: by default; None: as the network's config says.
    size: (height, width) in pixels by default; None: as the network's config says.
    steps: of sampling, by default.
    guidance: scale of classifier-free guidance by default; or two, of the first frame
      and of the last.
  """

  inputs: tuple[Callable, ...]
  drop: tuple[str, ...]
  network: str = "unet"
  num_frames: int | None = None
  size: tuple[int, int] | None = None
  steps: int = 50
  guidance: float | tuple[float, float] = 7.5


@dataclasses.dataclass(frozen=True)
class PublishedFolder:
  """A published folder and its opened parts, for inputs to be made of.

  Attributes:
    path: of the folder.
    index: its model_index.json, a dict.
    load_options: {"dtype", "mesh", "rules"} of all components, for pretrained.load.
    network: the denoising module.
    autoencoder: from latents to videos, and back.
    autoencoder_params: its parameters, a nested dict of arrays.
  """

  path: pathlib.Path
  index: dict
  load_options: dict
  network: Any
  autoencoder: Any
  autoencoder_params: Any

  def has_component(self, name):
    """Whether the component `name` is named in the index and has a folder."""
    named = self.index.get(name) or [None]
    return named[0] is not None and (self.path / name).is_dir()

  def encoder_options(self):
    """{"dtype", "devices": (mesh, rules)} of the other components, for an encoder."""
    mesh, rules = self.load_options["mesh"], self.load_options["rules"]
    one = frozen_network.data_parallel_mesh_and_rules(jax.local_devices()[:1])
    devices = one if mesh is None else (mesh, rules)
    return dict(dtype=self.load_options["dtype"], devices=devices)


def make_prompts_input(folder, **settings):
  """An inputs.PromptInput: prompts -> the signal "text".

  Of a folder without an encoder or tokenizer, it only takes embeddings.

  Args:
    folder: a PublishedFolder.
    settings: fields of a TextEncoder, such as length=77.
  """
  if not all(map(folder.has_component, ("text_encoder", "tokenizer"))):
    return inputs.PromptInput(None)
  encoder = text_encoder.TextEncoder(
    folder.path, **settings, truncate=True, **folder.encoder_options()
  )
  encoder.network.open()
  return inputs.PromptInput(encoder)


def make_classes_input(folder):
  """An inputs.ClassLabelInput: class ids or names -> the signal "label".

  The names are those in the index of `folder`, a PublishedFolder.
  """
  names = folder.index.get("id2label") or {}
  labels = {
    name.strip(): int(i) for i, many in names.items() for name in many.split(",")
  }
  return inputs.ClassLabelInput(folder.network.num_classes, labels)


def make_first_frames_input(folder, numbers=inputs.NUMBERS):
  """An inputs.FirstFrameInput: first frames -> the signal "image", and numbers.

  Made of the autoencoder of the folder, and of its image encoder if it has one.

  Args:
    folder: a PublishedFolder.
    numbers: those of "fps", "motion" and "augmentation" that the network takes.
  """
  parts = folder.autoencoder, folder.autoencoder_params
  return inputs.FirstFrameInput(_image_encoder(folder), *parts, numbers)


def make_animated_images_input(folder):
  """An inputs.AnimatedImageInput: images -> the signal "image", tokens and latents.

  Made of the image encoder and the autoencoder of `folder`, a PublishedFolder.
  """
  parts = folder.autoencoder, folder.autoencoder_params
  return inputs.AnimatedImageInput(_image_encoder(folder), *parts)


def _image_encoder(folder):
  """The opened ImageEncoder of a PublishedFolder; None if it has none."""
  if not folder.has_component("image_encoder"):
    return None
  encoder = image_encoder.ImageEncoder(
    folder.path / "image_encoder", shape=None, **folder.encoder_options()
  )
  encoder.network.open()
  return encoder


CLIP = functools.partial(make_prompts_input, length=77, masked=False)
PENULTIMATE_CLIP = functools.partial(CLIP, skip=1)
T5 = functools.partial(make_prompts_input, length=120, lower=True)
ANIMATEDIFF = PipelineSpec((CLIP,), ("text",), num_frames=16)
PUBLISHED = {
  "LattePipeline": PipelineSpec((T5,), ("text",), "transformer"),
  "DiTPipeline": PipelineSpec((make_classes_input,), ("label",), "transformer"),
  "StableDiffusionPipeline": PipelineSpec((CLIP,), ("text",), num_frames=1),
  "AnimateDiffPipeline": ANIMATEDIFF,
  "TextToVideoSDPipeline": PipelineSpec((CLIP,), ("text",), num_frames=16),
  "StableVideoDiffusionPipeline": PipelineSpec(
    (make_first_frames_input,),
    ("image",),
    size=(576, 1024),
    steps=25,
    guidance=(1.0, 3.0),
  ),
  "I2VGenXLPipeline": PipelineSpec(
    (PENULTIMATE_CLIP, make_animated_images_input),
    ("text", "image"),
    num_frames=16,
    size=(704, 1280),
    guidance=9.0,
  ),
}


def load(
  path,
  *,
  autoencoder="vae",
  motion=None,
  scheduler=None,
  dtype=jnp.float32,
  mesh=None,
  rules=(),
):
  """The Pipeline, called for videos, of a folder with model_index.json.

  Args:
    path: of the folder.
    autoencoder: the folder of the decoder; Latte's other one, which takes the flicker
      from the frames, is "vae_temporal_decoder".
    motion: the folder of a MotionAdapter, which makes AnimateDiff of a folder of Stable
      Diffusion 1; the scheduler is then DDIM with AnimateDiff's betas.
    scheduler: in the place of the folder's: "ddim", "euler", "unipc" ... or a class of
      diffusers, with the folder's betas; or a folder with another config.
    dtype: of the parameters and of the computation of all components.
    mesh: a jax.sharding.Mesh to lay their parameters out on; None: the first device.
    rules: ((logical axis, mesh axis), ...), which parameter axes the mesh splits.

  Raises:
    FileNotFoundError, ValueError: what is missing or not supported, all of it.
  """
  folder = pathlib.Path(path)
  index, options = _read_index(folder), dict(dtype=dtype, mesh=mesh, rules=rules)
  name = index["_class_name"]
  published = PUBLISHED[name]
  if motion is None:
    config = folder / "scheduler"
    network, params = pretrained.load(folder / published.network, **options)
  elif name == "StableDiffusionPipeline":
    published = ANIMATEDIFF
    config = motion_adapter.SCHEDULER
    network, params = motion_adapter.load(folder / published.network, motion, **options)
  else:
    raise ValueError(
      f"motion={str(motion)!r} is for a StableDiffusionPipeline; {folder} is a {name}."
    )
  if scheduler is not None and pathlib.Path(scheduler).exists():
    config, scheduler = scheduler, None
  scheduler = pretrained.load_scheduler(config, scheduler)
  decoder, decoder_params = pretrained.load(folder / autoencoder, **options)
  opened = PublishedFolder(folder, index, options, network, decoder, decoder_params)
  made = tuple(make(opened) for make in published.inputs)
  task = latent_diffusion.LatentDiffusion(
    network=network,
    process=scheduler.process,
    prediction=scheduler.prediction,
    conditioner=conditioner.All(tuple(x.conditioner for x in made)),
  )
  config = config_json.read_config(folder / published.network)
  return pipeline.Pipeline(
    pipeline.Components(task, params, scheduler, decoder, decoder_params),
    made,
    published.drop,
    published.size or _size(config, decoder),
    published.num_frames or _num_frames(config, network),
    published.steps,
    published.guidance,
  )


def _size(config, autoencoder):
  """(height, width) in pixels that the network's config names, or the autoencoder's."""
  size = config.get("sample_size") or autoencoder.sample_size // autoencoder.stride[1]
  sides = (size, size) if isinstance(size, int) else size
  return tuple(n * s for n, s in zip(sides, autoencoder.stride[1:], strict=True))


def _num_frames(config, network):
  """Frames that a transformer has, or a U-Net's config names; None for neither."""
  return config.get("num_frames") or getattr(network, "num_frames", None)


def _read_index(folder):
  if not (folder / INDEX).is_file():
    there = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else "nothing"
    raise FileNotFoundError(
      f"{folder} has no {INDEX}, it has {there}. A single component opens with "
      "pretrained.load."
    )
  index = config_json.read_json_object(folder / INDEX)
  name = index.get("_class_name")
  if name not in PUBLISHED:
    raise ValueError(
      f"{folder} is a {name}; what opens whole is {', '.join(PUBLISHED)}. Its "
      "components may open alone, with pretrained.load."
    )
  missing = [
    part
    for part in (PUBLISHED[name].network, "vae", "scheduler")
    if not (folder / part).is_dir() and part in index
  ]
  if missing:
    raise FileNotFoundError(f"{folder} lacks the folders {missing}.")
  return index
