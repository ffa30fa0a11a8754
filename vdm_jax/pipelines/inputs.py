"""Stable Video Diffusion as a whole: pictures in, videos out.

  pipeline = vdm_jax.load("stable-video-diffusion-img2vid")
  video = pipeline(["dog.jpg"], key=key)

Computes what diffusers' StableVideoDiffusionPipeline does; https://arxiv.org/abs/
2311.15127.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from vdm_jax.conditioning import Conditioning, Tokens
from vdm_jax.diffusion import denoise
from vdm_jax.diffusion import guidance as guidance_lib
from vdm_jax.diffusion.samplers import loop
from vdm_jax.encoders import clip_pixels

SIZE = (576, 1024)  # pixels, of the published models


@dataclasses.dataclass(frozen=True, eq=False)
class ImagePipeline:
  """The components of a published model, and what is done with them.

  Attributes:
    task: a LatentDiffusion, told as `told` says.
    params: of its network.
    scheduler: see pretrained/schedulers/schedulers.py.
    autoencoder, autoencoder_params: from pictures to latents, from latents to videos.
    image_encoder, image_encoder_params: CLIP's image encoder.
    num_frames: by default.
  """

  task: Any
  params: Any
  scheduler: Any
  autoencoder: Any
  autoencoder_params: Any
  image_encoder: Any
  image_encoder_params: Any
  num_frames: int

  def __call__(
    self,
    pictures,
    *,
    key,
    num_frames=None,
    steps=25,
    guidance=(1.0, 3.0),
    fps=7,
    motion=127,
    augmentation=0.02,
    height=SIZE[0],
    width=SIZE[1],
    decode_chunk=None,
    latents=None,
    noise=None,
  ):
    """Videos, uint8 [B, T, H, W, 3], that begin with the pictures.

    Args:
      pictures: a list of paths, or of uint8 arrays [h, w, 3] of any size; of another
        shape than height : width, they are stretched.
      key: of all that is random.
      num_frames: T; what the model was trained with by default.
      steps: calls of the network for each video.
      guidance: at the first frame and at the last, linear between.
      fps: frames a second; the network is told one less.
      motion: how much moves, the motion bucket, 0 to 255.
      augmentation: deviation of the noise on the pictures, whose range is [-1, 1].
      height, width: in pixels.
      decode_chunk: frames that are decoded together, to save memory; where two chunks
        meet, the decoder sees no motion. None: all.
      latents: [B, T, h, w, C], the initial noise of unit variance, in place of key's.
      noise: [B, H, W, 3] on the pictures, in place of key's.
    """
    signals, noise_key, step_key = self.signals(
      pictures, key, fps, motion, augmentation, height, width, noise
    )
    count, _, *sides, channels = signals["latent"].shape
    shape = (count, num_frames or self.num_frames, *sides, channels)
    if latents is None:
      latents = loop.noise(noise_key, shape)
    elif np.shape(latents) != shape:
      raise ValueError(f"latents has shape {np.shape(latents)}; it must be {shape}.")
    out = self.latents(signals, latents, step_key, steps=steps, guidance=guidance)
    return np.asarray(self._decode(decode_chunk)(self.autoencoder_params, out))

  def signals(
    self, pictures, key, fps, motion, augmentation, height, width, noise=None
  ):
    """(what the network is told, two keys)."""
    height, width = (
      side * stride
      for side, stride in zip(
        sides(self.autoencoder, 1, height, width, SIZE),
        self.autoencoder.stride[1:],
        strict=True,
      )
    )
    opened = [_opened(picture) for picture in pictures]
    if not opened:
      raise ValueError("There is no picture; give a list of paths or of arrays.")
    seen = [clip_pixels.pixels(x[None], self.image_encoder.size)[0] for x in opened]
    scaled = np.stack([_resized(x, height, width) for x in opened])
    k_picture, k_noise, k_steps = jax.random.split(key, 3)
    if noise is None:
      noise = jax.random.normal(k_picture, scaled.shape)
    scaled = jnp.asarray(scaled) / 127.5 - 1.0 + augmentation * jnp.asarray(noise)
    numbers = dict(fps=fps - 1, motion=motion, augmentation=augmentation)
    told = {k: jnp.full(len(opened), v, jnp.float32) for k, v in numbers.items()}
    token, latent = self._look(
      self.image_encoder_params, self.autoencoder_params, np.stack(seen), scaled
    )
    return {"token": token, "latent": latent, **told}, k_noise, k_steps

  def latents(self, signals, noise, key, *, steps, guidance):
    """Latents [B, T, h, w, C] of unit variance, from noise of that shape."""
    settings = steps, tuple(map(float, guidance))
    if settings not in self._compiled:
      self._compiled[settings] = self._drawer(*settings)
    noise = jnp.asarray(noise, jnp.float32)
    return self._compiled[settings](self.params, signals, noise, key)

  def _drawer(self, steps, guidance):
    scale = functools.partial(
      guidance_lib.linear_over_frames, start=guidance[0], stop=guidance[1]
    )
    wrap = functools.partial(
      guidance_lib.guide,
      drop=(("image",),),
      scales=(1.0 if max(guidance) <= 1 else scale,),
    )

    return drawer(self.task, self.scheduler, steps, wrap)

  @functools.cached_property
  def _compiled(self):
    return {}

  @functools.cached_property
  def _look(self):
    def look(image_encoder_params, params, seen, pictures):
      token = self.image_encoder.apply({"params": image_encoder_params}, seen)
      moments = self.autoencoder.encode(params, pictures[:, None])
      return token[:, None], moments.mean

    return jax.jit(look)

  def _decode(self, chunk):
    if ("decode", chunk) not in self._compiled:
      autoencoder = dataclasses.replace(self.autoencoder, decode_chunk=chunk)
      self._compiled["decode", chunk] = jax.jit(decoder(autoencoder))
    return self._compiled["decode", chunk]


def image_condition(batch):
  """(cond, null): the picture's token and its latents, which are not scaled."""
  vectors = {k: batch[k] for k in ("fps", "motion", "augmentation")}

  def tell(token, latent):
    mask = jnp.ones(token.shape[:2], bool)
    tokens = {"image": Tokens(token, mask)}
    return Conditioning(tokens=tokens, channels={"image": latent}, vectors=vectors)

  token, latent = batch["token"], batch["latent"]
  return tell(token, latent), tell(0 * token, 0 * latent)


def drawer(task, scheduler, steps, guide, cache=None):
  """Compiled (params, signals, noise of unit variance, key) -> latents.

  Args:
    cache: the plan of a step cache around the network, see diffusion/caching.py.
  """
  ts = scheduler.ts(steps)
  cached = (functools.partial(denoise.cached, plan=cache),) if cache else ()

  @jax.jit
  def draw(params, signals, noise, key):
    given = lambda _, shape: jnp.broadcast_to(noise, shape)
    return task.sample(
      params,
      signals,
      noise.shape,
      key,
      sampler=scheduler.sampler,
      ts=ts,
      wrappers=(*cached, guide, *scheduler.wrappers),
      noise=scheduler.noise(ts, given),
    )

  return draw


def decoder(autoencoder):
  """(params, latents) -> uint8 [B, T, H, W, 3]."""

  def decode(params, latents):
    video = autoencoder.decode(params, latents)
    scaled = jnp.clip(video / 2 + 0.5, 0.0, 1.0) * 255.0
    return jnp.rint(scaled).astype(jnp.uint8)

  return decode


def sides(autoencoder, patch, height, width, size):
  """[h, w] of the latents of so many pixels; `size` where they are None."""
  found = []
  for name, pixels, usual, stride in zip(
    ("height", "width"), (height, width), size, autoencoder.stride[1:], strict=True
  ):
    multiple = stride * patch
    if pixels is not None and (pixels % multiple or pixels < 1):
      low = pixels // multiple * multiple
      raise ValueError(
        f"{name}={pixels} must be a multiple of {multiple}; the nearest are "
        f"{max(low, multiple)} and {low + multiple}."
      )
    found.append(usual if pixels is None else pixels // stride)
  return found


def _opened(picture):
  """uint8 [h, w, 3] of a path or of such an array."""
  if isinstance(picture, np.ndarray):
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[-1] != 3:
      raise ValueError(
        f"A picture of shape {picture.shape} and type {picture.dtype}; wanted uint8 "
        "[h, w, 3]."
      )
    return picture
  with Image.open(picture) as file:
    return np.asarray(file.convert("RGB"))


def _resized(picture, height, width):
  """uint8 [height, width, 3]."""
  image = Image.fromarray(picture)
  return np.asarray(image.resize((width, height), Image.Resampling.LANCZOS))
