"""A published model as a whole: prompts or classes in, videos out.

  pipeline = load("Latte-1")  # or AnimateDiff's, ModelScope's, DiT's
  video = pipeline(["a dog in the snow"], steps=50, guidance=7.5, key=key)
  pipeline = load("stable-video-diffusion-img2vid")  # pipelines/inputs.py
  video = pipeline(["dog.jpg"], key=key)

The folder is diffusers': model_index.json names the components, each in a folder of its
own. Every component is one of ours, and all of them can be had from the pipeline: the
task is a LatentDiffusion like those that are trained here.
"""

import dataclasses
import functools
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vdm_jax import pretrained
from vdm_jax.conditioners import texts as texts_lib
from vdm_jax.conditioning import Conditioning, Tokens
from vdm_jax.diffusion import guidance as guidance_lib
from vdm_jax.diffusion.samplers import loop
from vdm_jax.encoders import tokenizer as tokenizer_lib
from vdm_jax.pipelines import inputs as image_pipeline
from vdm_jax.pipelines.inputs import ImagePipeline
from vdm_jax.pretrained.tables.unet import motion_adapter
from vdm_jax.tasks import latent_diffusion

INDEX = "model_index.json"


@dataclasses.dataclass(frozen=True)
class Kind:
  """What there is to know of a published pipeline besides its files.

  Attributes:
    condition: "text", "label" or "image", what it makes videos of.
    network: the folder of its network.
    num_frames: by default; None: as its network says.
    texts: fields of encoders.texts.Texts.
  """

  condition: str
  network: str = "unet"
  num_frames: int | None = None
  texts: dict = dataclasses.field(default_factory=dict)


CLIP = dict(length=77, masked=False)
ANIMATEDIFF = Kind("text", num_frames=16, texts=CLIP)
KINDS = {
  "LattePipeline": Kind("text", "transformer", texts=dict(length=120, lower=True)),
  "DiTPipeline": Kind("label", "transformer"),
  "StableDiffusionPipeline": Kind("text", num_frames=1, texts=CLIP),
  "AnimateDiffPipeline": ANIMATEDIFF,
  "TextToVideoSDPipeline": Kind("text", num_frames=16, texts=CLIP),
  "StableVideoDiffusionPipeline": Kind("image"),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Pipeline:
  """The components of a published model, and what is done with them.

  Attributes:
    kind: "text" or "label", its condition.
    task: a LatentDiffusion of the network and the scheduler's process.
    params: of the network.
    scheduler: see pretrained/schedulers/schedulers.py.
    autoencoder, autoencoder_params: from latents to videos.
    size: (height, width) of the latents it was trained with.
    channels: of the latents.
    num_frames: by default.
    texts: an encoders.texts.Texts, or None: embeddings then take the place of prompts.
    labels: {name: id} of the classes, if the folder names them.
  """

  kind: str
  task: Any
  params: Any
  scheduler: Any
  autoencoder: Any
  autoencoder_params: Any
  size: tuple[int, int]
  channels: int
  num_frames: int
  texts: Any = None
  labels: dict = dataclasses.field(default_factory=dict)

  def __call__(
    self,
    prompts=None,
    *,
    key,
    num_frames=None,
    steps=50,
    guidance=7.5,
    negative="",
    height=None,
    width=None,
    latents=None,
    embeddings=None,
    negative_embeddings=None,
    cache=None,
  ):
    """Videos, uint8 [B, T, H, W, 3].

    Args:
      prompts: a list of texts, or of class ids or names.
      key: of all that is random.
      num_frames: T; what the model was trained with by default.
      steps: calls of the network for each video.
      guidance: classifier-free guidance; 1 is none.
      negative: a text, or one for each prompt, that guidance leads away from.
      height, width: in pixels; what the model was trained with by default.
      latents: [B, T, h, w, C], the initial noise of unit variance, in place of key's.
      embeddings, negative_embeddings: (values [B, L, D], mask [B, L]) of a text
        encoder, in place of prompts; a mask of None is all True.
      cache: the plan of a step cache, for a transformer: part of the work is left out,
        as `functools.partial(caching.pyramid_attention_broadcast, spatial=2)` of
        diffusion/caching.py does. Compiled once for each such object; what it saves
        and costs: experiments/step_caching.
    """
    signals = self._signals(prompts, negative, embeddings, negative_embeddings)
    count = len(jax.tree.leaves(signals)[0])
    shape = self._shape(count, num_frames, height, width, latents)
    k_noise, k_steps = jax.random.split(key)
    if latents is None:
      latents = loop.noise(k_noise, shape)
    latents = jnp.asarray(latents, jnp.float32)
    settings = dict(steps=steps, guidance=guidance, cache=cache)
    out = self.latents(signals, latents, k_steps, **settings)
    return np.asarray(self._decode(self.autoencoder_params, out))

  def latents(self, signals, noise, key, *, steps, guidance, cache=None):
    """Latents [B, T, h, w, C] of unit variance, from noise of that shape."""
    draw = self._draw(steps, float(guidance), cache)
    return draw(self.params, signals, noise, key)

  def embed(self, texts):
    """(values [N, L, D], mask [N, L]) of texts."""
    if self.texts is None:
      raise ValueError(
        "This pipeline has no text encoder or no tokenizer; give embeddings and "
        "negative_embeddings in place of prompts."
      )
    return self.texts(texts)

  @functools.cached_property
  def _decode(self):
    return jax.jit(image_pipeline.decoder(self.autoencoder))

  @functools.cached_property
  def _compiled(self):
    return {}

  def _draw(self, steps, guidance, cache):
    """Compiled (params, signals, noise, key) -> latents; kept for the next call."""
    if (steps, guidance, cache) not in self._compiled:
      wrap = functools.partial(
        guidance_lib.guide, drop=(self.kind,), scales=(guidance,)
      )
      draw = image_pipeline.drawer(self.task, self.scheduler, steps, wrap, cache)
      self._compiled[steps, guidance, cache] = draw
    return self._compiled[steps, guidance, cache]

  def _signals(self, prompts, negative, embeddings, negative_embeddings):
    if (prompts is None) == (embeddings is None):
      raise ValueError("Give prompts, or embeddings in their place: one of them.")
    if self.kind == "label":
      return {"label": self._ids(prompts)}
    if isinstance(prompts, str):
      raise TypeError(f"prompts is one text, {prompts!r}; give a list of them.")
    values, mask = _with_mask(embeddings or self.embed(prompts))
    if negative_embeddings is None:
      texts = [negative] * len(values) if isinstance(negative, str) else list(negative)
      negative_embeddings = self.embed(texts)
    null, null_mask = _with_mask(negative_embeddings)
    length = max(values.shape[1], null.shape[1])
    values, mask = _pad(values, length), _pad(mask, length)
    null, null_mask = _pad(null, length), _pad(null_mask, length)
    null = jnp.broadcast_to(null, values.shape)
    null_mask = jnp.broadcast_to(null_mask, mask.shape)
    return {
      "text": values,
      "text_mask": mask,
      "negative": null,
      "negative_mask": null_mask,
    }

  def _ids(self, prompts):
    """Class ids [B] of ids or names."""
    if prompts is None:
      raise ValueError("This pipeline makes classes: give prompts, a list of them.")
    ids = []
    for prompt in prompts:
      if isinstance(prompt, str) and prompt not in self.labels:
        some = ", ".join(sorted(self.labels)[:5])
        raise ValueError(f"There is no class {prompt!r}; there are {some} ...")
      ids.append(self.labels[prompt] if isinstance(prompt, str) else int(prompt))
    most = self.task.network.num_classes
    if any(not 0 <= i < most for i in ids):
      raise ValueError(f"Class ids {ids} must lie in 0 .. {most - 1}.")
    return np.asarray(ids, np.int32)

  def _shape(self, count, num_frames, height, width, latents):
    """[B, T, h, w, C] of the latents."""
    if latents is not None:
      if np.ndim(latents) != 5 or np.shape(latents)[::4] != (count, self.channels):
        raise ValueError(
          f"latents has shape {np.shape(latents)}; for {count} videos it must be "
          f"[{count}, T, h, w, {self.channels}]."
        )
      return np.shape(latents)
    patch = getattr(self.task.network, "patch", 1)
    sides = image_pipeline.sides(self.autoencoder, patch, height, width, self.size)
    return (count, num_frames or self.num_frames, *sides, self.channels)


def load(
  path, *, autoencoder="vae", motion=None, dtype=jnp.float32, mesh=None, rules=()
):
  """The Pipeline of a folder with model_index.json, or its ImagePipeline.

  Args:
    autoencoder: the folder of the decoder; Latte's other one, which takes the flicker
      from the frames, is "vae_temporal_decoder".
    motion: the folder of a MotionAdapter, which makes AnimateDiff of a folder of Stable
      Diffusion 1; the scheduler is then DDIM with AnimateDiff's betas.
    dtype, mesh, rules: of all components, see pretrained.load.

  Raises:
    FileNotFoundError, ValueError: what is missing or not supported, all of it.
  """
  folder = pathlib.Path(path)
  index, lay = _read_index(folder), dict(dtype=dtype, mesh=mesh, rules=rules)
  kind = KINDS[index["_class_name"]]
  open_part = lambda name: pretrained.load(folder / name, **lay)
  if motion is None:
    scheduler = pretrained.load_scheduler(folder / "scheduler")
    network, params = open_part(kind.network)
  elif index["_class_name"] == "StableDiffusionPipeline":
    kind = ANIMATEDIFF
    scheduler = pretrained.load_scheduler(motion_adapter.SCHEDULER)
    network, params = motion_adapter.load(folder / kind.network, motion, **lay)
  else:
    raise ValueError(
      f"motion={str(motion)!r} is for a StableDiffusionPipeline; {folder} is a "
      f"{index['_class_name']}."
    )
  decoder, decoder_params = open_part(autoencoder)
  task = latent_diffusion.LatentDiffusion(
    network=network,
    process=scheduler.process,
    prediction=scheduler.prediction,
    conditioner={
      "text": _told,
      "label": functools.partial(_labelled, network),
      "image": image_pipeline.image_condition,
    }[kind.condition],
  )
  config = json.loads((folder / kind.network / "config.json").read_text())
  common = (task, params, scheduler, decoder, decoder_params)
  if kind.condition == "image":
    encoder, encoder_params = open_part("image_encoder")
    num_frames = config.get("num_frames", 25)
    return ImagePipeline(*common, encoder, encoder_params, num_frames)
  size = config.get("sample_size") or decoder.sample_size // decoder.stride[1]
  names = index.get("id2label") or {}
  labels = {
    name.strip(): int(i) for i, many in names.items() for name in many.split(",")
  }
  return Pipeline(
    kind.condition,
    *common,
    (size, size) if isinstance(size, int) else tuple(size),
    decoder.latent_channels,
    kind.num_frames or network.num_frames,
    _texts(folder, index, kind, open_part),
    labels,
  )


def _texts(folder, index, kind, open_part):
  """encoders.texts.Texts, or None: the folder may lack its parts."""
  parts = ("text_encoder", "tokenizer")
  if kind.condition != "text" or not all(_has(index, folder, part) for part in parts):
    return None
  tokenizer = tokenizer_lib.Tokenizer(folder / "tokenizer")
  encoder, params = open_part("text_encoder")
  return texts_lib.Texts(encoder, params, tokenizer, **kind.texts)


def _told(batch):
  """(cond, null): a text, and what guidance leads away from."""
  condition = lambda name: Conditioning(
    tokens={"text": Tokens(batch[name], batch[f"{name}_mask"])}
  )
  return condition("text"), condition("negative")


def _labelled(network, batch):
  """(cond, null): a class, and no class."""
  label = jnp.asarray(batch["label"])
  null = jnp.full_like(label, network.num_classes)
  return Conditioning(vectors={"label": label}), Conditioning(vectors={"label": null})


def _read_index(folder):
  if not (folder / INDEX).is_file():
    there = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else "nothing"
    raise FileNotFoundError(
      f"{folder} has no {INDEX}, it has {there}. A single component opens with "
      "pretrained.load."
    )
  try:
    index = json.loads((folder / INDEX).read_text())
    name = index["_class_name"]
  except (ValueError, KeyError, TypeError) as error:
    raise ValueError(
      f"{folder / INDEX} is no index of a pipeline: {error!r}"
    ) from error
  if name not in KINDS:
    raise ValueError(
      f"{folder} is a {name}; what opens whole is {', '.join(KINDS)}. Its components "
      "may open alone, with pretrained.load."
    )
  missing = [
    part
    for part in (KINDS[name].network, "vae", "scheduler")
    if not (folder / part).is_dir() and part in index
  ]
  if missing:
    raise FileNotFoundError(f"{folder} lacks the folders {missing}.")
  return index


def _has(index, folder, part):
  named = index.get(part) or [None]
  return named[0] is not None and (folder / part).is_dir()


def _with_mask(embeddings):
  values, mask = embeddings
  mask = np.ones(np.shape(values)[:2], bool) if mask is None else mask
  return jnp.asarray(values, jnp.float32), jnp.asarray(mask, bool)


def _pad(x, length):
  return jnp.pad(x, ((0, 0), (0, length - x.shape[1]), *((0, 0),) * (x.ndim - 2)))
