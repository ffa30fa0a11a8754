"""A published model as a whole: prompts, classes or images in, videos out.

  pipeline = Pipeline(components, inputs)
  video = pipeline(["a dog in the snow"], steps=50, guidance=7.5, key=key)
  video = pipeline(["dog.jpg"], motion=100, key=key)
  video = pipeline(["a dog runs"], ["dog.jpg"], key=key)

pipelines/load.py makes one of a folder in the layout of diffusers.
"""

import dataclasses
import functools
import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vdm_jax import keys, video_io
from vdm_jax.diffusion import denoise
from vdm_jax.diffusion import guidance as guidance_lib
from vdm_jax.diffusion.samplers import loop
from vdm_jax.pipelines import inputs as inputs_lib


@dataclasses.dataclass(frozen=True, eq=False)
class Components:
  """The networks of a published model and their parameters.

  Attributes:
    task: a LatentDiffusion: denoising network, process, and the conditioner that turns
      what the inputs encode into the network's Conditioning.
    params: of the denoising network, a nested dict of arrays.
    scheduler: a pretrained Scheduler: sampler, grid of times and initial noise.
    autoencoder: from latents to videos.
    autoencoder_params: its parameters, a nested dict of arrays.
  """

  task: Any
  params: Any
  scheduler: Any
  autoencoder: Any
  autoencoder_params: Any


@dataclasses.dataclass(frozen=True, eq=False)
class Pipeline:
  """The components of a published model, and what it makes videos of.

  Attributes:
    components: Components: networks, their parameters and the scheduler.
    inputs: such as inputs.PromptInput and inputs.FirstFrameInput; the first positional
      arguments of a call are their values.
    drop: names of the signals that guidance leaves out, all together.
    size: (height, width) in pixels by default.
    num_frames: by default, in frames of video; None: it must be given.
    steps: of sampling, by default.
    guidance: scale of classifier-free guidance by default, 1 is none; or two, of the
      first frame and of the last.
  """

  components: Components
  inputs: tuple[Any, ...]
  drop: tuple[str, ...]
  size: tuple[int, int]
  num_frames: int | None = None
  steps: int = 50
  guidance: float | tuple[float, float] = 7.5

  def __call__(
    self,
    *values,
    key,
    num_frames=None,
    steps=None,
    guidance=None,
    height=None,
    width=None,
    latents=None,
    decode_chunk=None,
    cache=None,
    **settings,
  ):
    """Videos, uint8 [B, T, H, W, 3].

    A FloatingPointError if latents or frames are not finite.

    Args:
      values: of each input in its order: a list of B prompts or class names, of B
        images; or by name, as prompts= and pictures=.
      key: PRNG key of all that is random: a video depends on its place in the list, not
        on the others; or keys [B], one for each.
      num_frames: T; what the model was trained with by default.
      steps: calls of the network for each video.
      guidance: classifier-free guidance, 1 is none; or two scales, of the first frame
        and of the last, linear between.
      height, width: in pixels; what the model was trained with by default.
      latents: [B, t, h, w, C], the initial noise of unit variance, in place of key's.
      decode_chunk: frames that are decoded together, to save memory; where two chunks
        meet, a temporal decoder sees no motion. None: all.
      cache: a function that plans what a transformer reuses of earlier steps, such as
        `functools.partial(caching.pyramid_attention_broadcast, spatial=2)` of
        diffusion/caching.py; compiled once for each such object. None: nothing.
      settings: of prompts: negative=; of images: fps=, motion=, augmentation=.
    """
    decode = self._decoder(decode_chunk)
    frames, h, w = self._latent_shape(num_frames, height, width, latents)
    key = keys.per_video(key, range(self._num_videos(values, settings)))
    k_noise, k_steps, k_inputs = keys.split(key, 3)
    stride = self.components.autoencoder.stride[1:]
    size = h * stride[0], w * stride[1]
    spec = dict(size=size, latent_frames=frames, key=k_inputs)
    batch = self.encode(*values, **spec, **settings)
    channels = self.components.autoencoder.latent_channels
    shape = (len(jax.tree.leaves(batch)[0]), frames, h, w, channels)
    if latents is None:
      latents = _noise_by_frame(k_noise, shape)
    elif np.shape(latents) != shape:
      raise ValueError(
        f"latents has shape {np.shape(latents)}; for {shape[0]} videos it must be "
        f"[{shape[0]}, T, h, w, {channels}]."
      )
    out = self.sample_latents(
      batch, latents, k_steps, steps=steps, guidance=guidance, cache=cache
    )
    video, finite = decode(self.components.autoencoder_params, out)
    video_io.check_finite(finite)
    return np.asarray(video)

  def encode(self, *values, size, key=None, latent_frames=None, **settings):
    """{name: array [B, ...]}, the batch of B videos that the task's conditioner takes.

    Args:
      values: of each input in its order: a list of B prompts, class names or images.
      size: (height, width) of the video in pixels.
      key: of the noise on images, one or [B]; needed if an input is random and no noise
        is given.
      latent_frames: of the video; needed by inputs.AnimatedImageInput.
      settings: of the inputs: negative= of prompts; fps=, motion=, augmentation= of
        images; or their values by name, as prompts= and pictures=.
    """
    if len(values) > len(self.inputs):
      names = ", ".join(x.name for x in self.inputs)
      raise TypeError(f"{len(values)} positional values came; this takes {names}.")
    if key is not None:
      key = keys.per_video(key, range(self._num_videos(values, settings)))
    known = {x.name: x for x in self.inputs}
    given = dict(zip(known, values, strict=False)) | {
      name: settings.pop(name) for name in list(settings) if name in known
    }
    batch = {}
    for i, (name, x) in enumerate(known.items()):
      options = inspect.signature(x.encode).parameters
      own = {k: settings.pop(k) for k in list(settings) if k in options}
      k_input = keys.fold_in(key, i) if i and key is not None else key
      frame = inputs_lib.FrameSpec(*size, k_input, latent_frames)
      batch[name] = x.encode(frame, given.get(name), **own)
    if settings:
      raise TypeError(
        f"{', '.join(settings)}: no such argument; the inputs are {', '.join(known)}."
      )
    counts = {name: len(jax.tree.leaves(x)[0]) for name, x in batch.items()}
    if len(set(counts.values())) > 1:
      raise ValueError(f"There are {counts}; give one of each for every video.")
    return {k: x for entries in batch.values() for k, x in entries.items()}

  def _num_videos(self, values, settings):
    """B, of the first input that is given; 0: `encode` says what is missing."""
    named = [settings.get(x.name) for x in self.inputs]
    embeddings = settings.get("embeddings") or ()
    lists = (*values, *named, *embeddings)
    return next((len(x) for x in lists if hasattr(x, "__len__")), 0)

  def sample_latents(self, batch, noise, key, *, steps=None, guidance=None, cache=None):
    """Latents [B, t, h, w, C] of unit variance, from noise of that shape.

    Args:
      batch: {name: array [B, ...]} that `encode` returns.
      noise: [B, t, h, w, C] of unit variance.
      key: of the sampler's own noise.
      steps: calls of the network for each video; None: the model's default.
      guidance: classifier-free guidance, 1 is none; or two scales, of the first frame
        and of the last; None: the model's default.
      cache: plans what a transformer reuses of earlier steps (diffusion/caching.py).
    """
    steps = self.steps if steps is None else steps
    guidance = self.guidance if guidance is None else guidance
    pair = guidance if isinstance(guidance, tuple | list) else (guidance,)
    draw = self._sampler(steps, tuple(map(float, pair)), cache)
    noise = jnp.asarray(noise, jnp.float32)
    return draw(self.components.params, batch, noise, key)

  def embed(self, texts):
    """Encodes a list of N texts: (values [N, L, D] float32, mask [N, L] bool)."""
    for x in self.inputs:
      if isinstance(x, inputs_lib.PromptInput):
        return x.embed(texts)
    raise ValueError("This pipeline reads no texts.")

  @functools.cached_property
  def _sampler(self):
    """(steps, guidance, cache) -> compiled (params, batch, noise, key) -> latents."""
    return functools.cache(self._compile_sampler)

  @functools.cached_property
  def _decoder(self):
    """decode_chunk -> compiled (params, latents) -> (uint8 [B, T, H, W, 3], finite)."""
    return functools.cache(self._compile_decoder)

  def _compile_sampler(self, steps, guidance, cache):
    scale = guidance[0]
    if len(guidance) > 1:
      over = dict(start=guidance[0], stop=guidance[1])
      rising = functools.partial(guidance_lib.linear_over_frames, **over)
      scale = 1.0 if max(guidance) <= 1 else rising
    guide = functools.partial(guidance_lib.guide, drop=(self.drop,), scales=(scale,))
    task, scheduler = self.components.task, self.components.scheduler
    ts = scheduler.time_grid(steps)
    cached = (functools.partial(denoise.cached, plan=cache),) if cache else ()

    @jax.jit
    def draw(params, batch, noise, key):
      given = lambda _, shape: jnp.broadcast_to(noise, shape)
      return task.sample(
        params,
        batch,
        noise.shape,
        key,
        sampler=scheduler.sampler,
        ts=ts,
        wrappers=(*cached, guide, *scheduler.wrappers),
        noise=scheduler.initial_noise_fn(ts, given),
      )

    return draw

  def _compile_decoder(self, chunk):
    autoencoder = self.components.autoencoder
    if chunk is not None and not hasattr(autoencoder, "decode_chunk"):
      name = type(autoencoder).__name__
      raise ValueError(
        f"decode_chunk={chunk}: a {name} has no temporal decoder to be given a few "
        "frames; leave decode_chunk out. KLImage has `chunk`, of the same use: "
        "replace components.autoencoder by one that sets it."
      )
    if chunk is not None:
      autoencoder = dataclasses.replace(autoencoder, decode_chunk=chunk)

    @jax.jit
    def decode(params, latents):
      video = autoencoder.decode(params, latents)
      finite = {"latents": latents, "frames": video}
      finite = {k: video_io.finite_frames(x) for k, x in finite.items()}
      scaled = jnp.clip(video / 2 + 0.5, 0.0, 1.0) * 255.0
      return jnp.rint(scaled).astype(jnp.uint8), finite

    return decode

  def _latent_shape(self, num_frames, height, width, latents):
    """(t, h, w) of the latents: those given, or of so many frames and pixels."""
    if np.ndim(latents) == 5:
      return np.shape(latents)[1:4]
    if latents is not None:
      raise ValueError(f"latents has shape {np.shape(latents)}; [B, t, h, w, C].")
    num_frames = num_frames or self.num_frames
    if num_frames is None:
      raise ValueError("num_frames is needed: this model has no number of its own.")
    patch = getattr(self.components.task.network, "patch", 1)
    stride = self.components.autoencoder.stride
    sizes = num_frames, height or self.size[0], width or self.size[1]
    names, multiples = ("num_frames", "height", "width"), (1, patch, patch)
    return tuple(
      _divided(name, size, s, s * multiple)
      for name, size, s, multiple in zip(names, sizes, stride, multiples, strict=True)
    )


_noise_by_frame = jax.jit(loop.noise_by_frame, static_argnums=1)


def _divided(name, size, stride, multiple):
  """size // stride; a size that is no multiple of `multiple` is refused."""
  if size % multiple or size < 1:
    low = size // multiple * multiple
    raise ValueError(
      f"{name}={size} must be a multiple of {multiple}; the nearest are "
      f"{max(low, multiple)} and {low + multiple}."
    )
  return size // stride
