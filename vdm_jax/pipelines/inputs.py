"""What a published model makes videos of: texts, classes, images.

An input turns what its user gives into entries of a batch, those that training reads,
and has the conditioner of training for them:

  name         of its argument in the pipeline's call
  random       whether `encode` draws noise from the frame's key
  conditioner  batch -> (cond, null), two Conditionings
  encode(frame, value, *, ...) -> {name: array [B, ...]}

`value` is the list that the pipeline's caller gives, or None, the keyword arguments are
those of the pipeline's call, and `frame` is a FrameSpec.
"""

import dataclasses
import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from vdm_jax import keys, video_io
from vdm_jax.conditioners import conditioner

NUMBERS = ("fps", "motion", "augmentation")


@dataclasses.dataclass(frozen=True)
class FrameSpec:
  """Size and number of the frames to generate, and the key of noise on input images.

  Attributes:
    height, width: in pixels.
    noise_key: PRNG key, or keys [B], of the noise on images; None for inputs that are
      not random.
    latent_frames: frames of the latents; None for inputs that do not depend on it.
  """

  height: int
  width: int
  noise_key: Any
  latent_frames: int | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class PromptInput:
  """An input of a Pipeline: prompts -> the signal "text", for cross-attention.

  Attributes:
    encoder: a TextEncoder, texts -> (values [N, L, D], mask [N, L]); None: embeddings
      take the place of prompts.
  """

  encoder: Any

  name = "prompts"
  random = False
  conditioner = conditioner.Text()

  def encode(
    self,
    frame,
    prompts=None,
    *,
    negative="",
    padding="masked",
    embeddings=None,
    negative_embeddings=None,
  ):
    """{"text", "negative": [B, L, D] float32, "text_mask", "negative_mask": [B, L]}.

    Args:
      frame: a FrameSpec; not used.
      prompts: a list of B texts.
      negative: a text, or a list of one for each prompt, that guidance leads away
        from; None is the empty text.
      padding: "masked": no token beyond a text is read; "diffusers", as LattePipeline:
        a negative prompt is as long as its prompt, and its padding is read.
      embeddings, negative_embeddings: (values [B, L, D], mask [B, L]) of a text
        encoder, in place of texts; a mask of None is all True.
    """
    del frame
    if (prompts is None) == (embeddings is None):
      raise ValueError("Give prompts, or embeddings in their place: one of them.")
    if isinstance(prompts, str):
      raise TypeError(f"prompts is one text, {prompts!r}; give a list of them.")
    if prompts is not None and not len(prompts):
      raise ValueError("prompts is empty; give a list of texts.")
    values, mask = _with_mask(embeddings or self.embed(prompts))
    if negative_embeddings is None:
      negative_embeddings = self.embed(_one_for_each(negative, len(values)))
    null, null_mask = _with_mask(negative_embeddings)
    if padding == "diffusers":
      values, mask = values[:, : mask.sum(1).max()], mask[:, : mask.sum(1).max()]
      null, null_mask = null[:, : values.shape[1]], mask
    elif padding != "masked":
      raise ValueError(f"padding={padding!r}; choose masked or diffusers.")
    length = max(values.shape[1], null.shape[1])
    values, mask = _pad(values, length), _pad(mask, length)
    null, null_mask = _pad(null, length), _pad(null_mask, length)
    return {
      "text": values,
      "text_mask": mask,
      "negative": np.broadcast_to(null, values.shape),
      "negative_mask": np.broadcast_to(null_mask, mask.shape),
    }

  def embed(self, texts):
    """Encodes a list of N texts: (values [N, L, D] float32, mask [N, L] bool)."""
    if self.encoder is None:
      raise ValueError(
        "This pipeline has no text encoder or no tokenizer; give embeddings and "
        "negative_embeddings in place of prompts."
      )
    return self.encoder(texts)


@dataclasses.dataclass(frozen=True)
class ClassLabelInput:
  """An input of a Pipeline: class ids or names -> the signal "label", ids [B].

  Attributes:
    num_classes: ids are 0 .. num_classes - 1.
    labels: {name: id} of the classes, if the folder names them.
  """

  num_classes: int
  labels: dict = dataclasses.field(default_factory=dict)

  name = "prompts"
  random = False

  @property
  def conditioner(self):
    """batch -> (cond, null): Conditioning of the class, and of no class."""
    return conditioner.Labels(self.num_classes)

  def encode(self, frame, prompts=None):
    """{"label": [B] int32} of a list of B class ids or names; `frame` is not used."""
    del frame
    if prompts is None:
      raise ValueError("This pipeline makes classes: give prompts, a list of them.")
    ids = []
    for prompt in prompts:
      if isinstance(prompt, str) and prompt not in self.labels:
        some = ", ".join(sorted(self.labels)[:5])
        raise ValueError(f"There is no class {prompt!r}; there are {some} ...")
      ids.append(self.labels[prompt] if isinstance(prompt, str) else int(prompt))
    if any(not 0 <= i < self.num_classes for i in ids):
      raise ValueError(f"Class ids {ids} must lie in 0 .. {self.num_classes - 1}.")
    return {"label": np.asarray(ids, np.int32)}


@dataclasses.dataclass(frozen=True, eq=False)
class FirstFrameInput:
  """An input of a Pipeline: first frames -> the signal "image", and numbers.

  By default that of Stable Video Diffusion, https://arxiv.org/abs/2311.15127: tokens of
  an image encoder, and latents of the image with noise on it, which are not scaled to
  unit variance.

  Attributes:
    encoder: an ImageEncoder, images -> tokens [N, L, D]; None: no tokens.
    autoencoder, autoencoder_params: of the latents; None: no latents.
    numbers: those of "fps", "motion" and "augmentation" that are signals too.
    fps_offset: added to the frames a second that a user gives.
  """

  encoder: Any
  autoencoder: Any
  autoencoder_params: Any
  numbers: tuple[str, ...] = NUMBERS
  fps_offset: int = -1

  name = "pictures"
  random = True

  @property
  def conditioner(self):
    """batch -> (cond, null): Conditioning of image and numbers, and of no image."""
    forms = {(True, True): "both", (True, False): "tokens", (False, True): "channels"}
    parts = self.encoder is not None, self.autoencoder is not None
    image = conditioner.Image(form=forms[parts])
    return conditioner.All((image, conditioner.Numbers(self.numbers)))

  def encode(
    self,
    frame,
    pictures=None,
    *,
    fps=7,
    motion=127,
    augmentation=0.02,
    noise=None,
  ):
    """{"image": [B, L, D], "image_latents": [B, 1, h, w, c]} and the numbers, [B].

    Args:
      frame: a FrameSpec, the size of the video and the key of the noise.
      pictures: a list of B paths, or of uint8 arrays [h, w, 3] of any size; of another
        shape than height : width, they are stretched.
      fps: frames a second.
      motion: how much moves, the motion bucket, 0 to 255.
      augmentation: deviation of the noise on the images, whose range is [-1, 1].
      noise: [B, H, W, 3] on the images, in place of the key's.
    """
    opened = _opened(pictures)
    numbers = dict(fps=fps + self.fps_offset, motion=motion, augmentation=augmentation)
    entries = {k: np.full(len(opened), numbers[k], np.float32) for k in self.numbers}
    if self.encoder is not None:
      entries["image"] = self.encoder(opened)
    if self.autoencoder is not None:
      scaled = _unit(np.stack([_resized(x, frame.height, frame.width) for x in opened]))
      if noise is None:
        noise = np.asarray(keys.normal(frame.noise_key, scaled.shape))
      scaled += np.float32(augmentation) * np.asarray(noise, np.float32)
      entries["image_latents"] = self._latents(self.autoencoder_params, scaled)
    return entries

  @functools.cached_property
  def _latents(self):
    encode = self.autoencoder.encode
    return jax.jit(lambda params, pictures: encode(params, pictures[:, None]).mean)


@dataclasses.dataclass(frozen=True, eq=False)
class AnimatedImageInput:
  """The input of images for I2VGen-XL, the signal `image`, and the number `fps`.

  https://arxiv.org/abs/2311.04145. The embedding of an image is a token, which guidance
  leaves out; its latents are channels of the first frame, which guidance keeps, and
  those of later frames have a ramp from 1 / (T - 1) to 1 in their place.

  Attributes:
    encoder: an ImageEncoder, images -> tokens [N, 1, D].
    autoencoder, autoencoder_params: of the latents.
  """

  encoder: Any
  autoencoder: Any
  autoencoder_params: Any

  name = "pictures"
  signals = ("image",)
  random = True

  def conditioner(self, batch):
    """(cond, null), Conditionings of image and fps; `null` has no token."""
    cond, null = conditioner.Image(form="tokens")(batch)
    fps, _ = conditioner.Numbers(("fps",))(batch)
    kept = dict(channels={"image": batch["image_latents"]}, vectors=fps.vectors)
    return cond.replace(**kept), null.replace(**kept)

  def encode(self, frame, pictures=None, *, fps=16, noise=None):
    """{"image": [B, 1, D], "image_latents": [B, T, h, w, c], "fps": [B]}.

    Args:
      frame: a FrameSpec, with latent_frames, T.
      pictures: a list of B paths, or of uint8 arrays [h, w, 3] of any size; what is
        outside of height : width, or of a square for the token, is cut off.
      fps: frames a second.
      noise: [B, 1, h, w, c] of the latents, in place of the key's.
    """
    opened, side = _opened(pictures), self.encoder.network.module.size
    squares = [_covered(x, frame.width, frame.width) for x in opened]
    squares = [_resized(x, side, side, Image.Resampling.BILINEAR) for x in squares]
    cut = np.stack([_covered(x, frame.height, frame.width) for x in opened])
    count = frame.latent_frames - 1
    ramp = np.arange(1, count + 1, dtype=np.float32) / max(count, 1)
    given = _unit(cut)[:, None], ramp, frame.noise_key, noise
    return {
      "image": self.encoder(squares),
      "image_latents": self._latents(self.autoencoder_params, *given),
      "fps": np.full(len(cut), fps, np.float32),
    }

  @functools.cached_property
  def _latents(self):
    def sample(params, pixels, ramp, key, noise):
      moments = self.autoencoder.encode(params, pixels)
      if noise is None:
        noise = keys.normal(key, moments.mean.shape)
      drawn = moments.mean + jnp.exp(0.5 * moments.logvar) * noise
      first = self.autoencoder.latents(params, moments.replace(mean=drawn), None)
      ramp = ramp[:, None, None, None]
      later = jnp.broadcast_to(ramp, (len(first), len(ramp), *first.shape[2:]))
      return jnp.concatenate([first, later], axis=1)

    return jax.jit(sample)


def _one_for_each(negative, count):
  """A list of `count` texts of one, of a list of them, or of None."""
  if negative is None or isinstance(negative, str):
    return [negative or ""] * count
  if len(negative) != count:
    raise ValueError(
      f"There are {len(negative)} negative prompts for {count} prompts; give one text, "
      "or one for each."
    )
  return list(negative)


def _with_mask(embeddings):
  values, mask = embeddings
  mask = np.ones(np.shape(values)[:2], bool) if mask is None else mask
  return np.asarray(values, np.float32), np.asarray(mask, bool)


def _pad(x, length):
  return np.pad(x, ((0, 0), (0, length - x.shape[1]), *((0, 0),) * (x.ndim - 2)))


def _opened(pictures):
  """[uint8 [h, w, 3]] of a list of paths or of such arrays."""
  if isinstance(pictures, str | pathlib.Path):
    raise TypeError(f"pictures is one path, {str(pictures)!r}; give a list of them.")
  if pictures is None or not len(pictures):
    raise ValueError("There is no picture; give a list of paths or of arrays.")
  return [_read(picture) for picture in pictures]


def _read(picture):
  if isinstance(picture, np.ndarray):
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[-1] != 3:
      raise ValueError(
        f"A picture of shape {picture.shape} and type {picture.dtype}; wanted uint8 "
        "[h, w, 3]."
      )
    return picture
  return video_io.read_image(picture)


def _unit(pictures):
  """float32 in [-1, 1] of uint8 pixels."""
  return pictures.astype(np.float32) / np.float32(127.5) - np.float32(1.0)


def _resized(picture, height, width, filter=Image.Resampling.LANCZOS):
  """uint8 [height, width, 3]; `filter` is Pillow's."""
  return np.asarray(Image.fromarray(picture).resize((width, height), filter))


def _covered(picture, height, width):
  """uint8 [height, width, 3], the centre of a picture that is resized to cover it.

  A side may be rounded to one pixel less, as in the original: then an edge is black.
  """
  rows, columns, _ = picture.shape
  scale = min(columns / width, rows / height)
  sides = int(columns // scale), int(rows // scale)
  image = Image.fromarray(picture).resize(sides, Image.Resampling.BOX)
  left, top = (sides[0] - width) // 2, (sides[1] - height) // 2
  return np.asarray(image.crop((left, top, left + width, top + height)))
