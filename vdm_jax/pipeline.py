"""A published model as a whole: prompts or classes in, videos out.

  pipeline = load("Latte-1")
  video = pipeline(["a dog in the snow"], steps=50, guidance=7.5, key=key)

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
from vdm_jax.conditioning import Conditioning, Tokens
from vdm_jax.diffusion import guidance as guidance_lib
from vdm_jax.diffusion.samplers import loop
from vdm_jax.encoders import tokenizer as tokenizer_lib
from vdm_jax.tasks import latent_diffusion

INDEX = "model_index.json"
# What tells the network of each pipeline what to make, and the tokens of a prompt.
KINDS = {"LattePipeline": "text", "DiTPipeline": "label"}
LENGTH = 120
# Folders that a pipeline may lack: embeddings may be given in the place of prompts.
OPTIONAL = ("text_encoder", "tokenizer")


@dataclasses.dataclass(frozen=True, eq=False)
class Pipeline:
  """The components of a published model, and what is done with them.

  Attributes:
    kind: "text" or "label", what it is told.
    task: a LatentDiffusion of the network and the scheduler's process.
    params: of the network.
    scheduler: see pretrained/schedulers.py.
    autoencoder, autoencoder_params: from latents to videos.
    size: height and width of the latents it was trained with.
    channels: of the latents.
    text_encoder, text_params, tokenizer: None without them.
    labels: {name: id} of the classes, if the folder names them.
  """

  kind: str
  task: Any
  params: Any
  scheduler: Any
  autoencoder: Any
  autoencoder_params: Any
  size: int
  channels: int
  text_encoder: Any = None
  text_params: Any = None
  tokenizer: Any = None
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
    """
    signals = self._signals(prompts, negative, embeddings, negative_embeddings)
    count = len(jax.tree.leaves(signals)[0])
    shape = self._shape(count, num_frames, height, width, latents)
    k_noise, k_steps = jax.random.split(key)
    if latents is None:
      latents = loop.noise(k_noise, shape)
    out = self._draw(steps, float(guidance))(
      self.params, signals, jnp.asarray(latents, jnp.float32), k_steps
    )
    return np.asarray(self._decode(self.autoencoder_params, out))

  def latents(self, signals, noise, key, *, steps, guidance):
    """Latents [B, T, h, w, C] of unit variance, from noise of that shape."""
    return self._draw(steps, float(guidance))(self.params, signals, noise, key)

  def embed(self, texts, length=LENGTH):
    """(values [N, L, D], mask [N, L]) of texts; their case is lost, as in training."""
    if self.text_encoder is None or self.tokenizer is None:
      raise ValueError(
        "This pipeline has no text encoder or no tokenizer; give embeddings and "
        "negative_embeddings in place of prompts."
      )
    texts = [text.lower().strip() for text in texts]
    ids, mask = self.tokenizer(texts, length)
    return self._encode(self.text_params, ids, mask), mask

  @functools.cached_property
  def _encode(self):
    return jax.jit(self.text_encoder.apply)

  @functools.cached_property
  def _decode(self):
    def decode(params, latents):
      video = self.autoencoder.decode(params, latents)
      scaled = jnp.clip(video / 2 + 0.5, 0.0, 1.0) * 255.0
      return jnp.rint(scaled).astype(jnp.uint8)

    return jax.jit(decode)

  @functools.cached_property
  def _compiled(self):
    return {}

  def _draw(self, steps, guidance):
    """Compiled (params, signals, noise, key) -> latents; kept for the next call."""
    if (steps, guidance) not in self._compiled:
      ts = self.scheduler.ts(steps)
      wrap = functools.partial(
        guidance_lib.guide, drop=(self.kind,), scales=(guidance,)
      )

      def draw(params, signals, noise, key):
        given = lambda _, shape: jnp.broadcast_to(noise, shape)
        return self.task.sample(
          params,
          signals,
          noise.shape,
          key,
          sampler=self.scheduler.sampler,
          ts=ts,
          wrappers=(wrap, *self.scheduler.wrappers),
          noise=self.scheduler.noise(ts, given),
        )

      self._compiled[steps, guidance] = jax.jit(draw)
    return self._compiled[steps, guidance]

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
    _, *strides = self.autoencoder.stride
    sides = []
    for name, pixels, stride in zip(
      ("height", "width"), (height, width), strides, strict=True
    ):
      multiple = stride * self.task.network.patch
      if pixels is not None and (pixels % multiple or pixels < 1):
        low = pixels // multiple * multiple
        raise ValueError(
          f"{name}={pixels} must be a multiple of {multiple}; the nearest are "
          f"{max(low, multiple)} and {low + multiple}."
        )
      sides.append(self.size if pixels is None else pixels // stride)
    frames = num_frames or self.task.network.num_frames
    return (count, frames, *sides, self.channels)


def load(path, *, autoencoder="vae", dtype=jnp.float32, mesh=None, rules=()):
  """The Pipeline of a folder with model_index.json.

  Args:
    autoencoder: the folder of the decoder; Latte's other one, which takes the flicker
      from the frames, is "vae_temporal_decoder".
    dtype, mesh, rules: of all components, see pretrained.load.

  Raises:
    FileNotFoundError, ValueError: what is missing or not supported, all of it.
  """
  folder = pathlib.Path(path)
  index = _read_index(folder)
  kind = KINDS[index["_class_name"]]
  open_part = lambda name: pretrained.load(
    folder / name, dtype=dtype, mesh=mesh, rules=rules
  )
  scheduler = pretrained.load_scheduler(folder / "scheduler")
  network, params = open_part("transformer")
  decoder, decoder_params = open_part(autoencoder)
  config = json.loads((folder / "transformer" / "config.json").read_text())
  encoder = text_params = tokenizer = None
  if kind == "text":
    if _has(index, folder, "text_encoder"):
      encoder, text_params = open_part("text_encoder")
    if _has(index, folder, "tokenizer"):
      tokenizer = tokenizer_lib.Tokenizer(folder / "tokenizer")
  names = index.get("id2label") or {}
  labels = {
    name.strip(): int(i) for i, many in names.items() for name in many.split(",")
  }
  task = latent_diffusion.LatentDiffusion(
    network=network,
    process=scheduler.process,
    prediction=scheduler.prediction,
    conditioner=_told if kind == "text" else functools.partial(_labelled, network),
  )
  return Pipeline(
    kind,
    task,
    params,
    scheduler,
    decoder,
    decoder_params,
    config["sample_size"],
    params["patchify"]["kernel"].shape[0] // network.patch**2,
    encoder,
    text_params,
    tokenizer,
    labels,
  )


def _told(batch):
  """(cond, null): a text, and what guidance leads away from."""
  told = lambda name: Conditioning(
    tokens={"text": Tokens(batch[name], batch[f"{name}_mask"])}
  )
  return told("text"), told("negative")


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
    for part in ("transformer", "vae", "scheduler")
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
