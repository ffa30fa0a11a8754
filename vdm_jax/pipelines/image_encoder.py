"""Pictures to the tokens that a network attends to: a frozen image encoder, CLIP's."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vdm_jax.encoders import clip_pixels
from vdm_jax.pipelines import frozen_network


@dataclasses.dataclass(frozen=True, eq=False)
class ImageEncoder:
  """(pictures, uint8 [N, H, W, 3] or N of any size) -> tokens [N, L, D] float32, numpy.

  Attributes:
    folder: of an encoder in the layout of `transformers`, such as `image_encoder` of
      Stable Video Diffusion: config.json and weights. Nothing is read before the first
      use.
    shape: (L, D). With L = 1 the embedding of the whole picture, as Stable Video
      Diffusion attends to it; otherwise the hidden states of the class token and of
      the patches, for VideoCrafter's resampler: (257, 1280) of ViT-H/14. None: the
      embedding, of any width.
    batch_size: pictures at a time.
    dtype, devices: see FrozenNetwork.
  """

  folder: Any
  shape: tuple[int, int] | None = (1, 1024)
  batch_size: int = 64
  dtype: Any = "float32"
  devices: tuple | None = None

  inputs = ("image_pixels",)  # entries of a batch that `encode_batch` reads

  @functools.cached_property
  def network(self):
    """The FrozenNetwork of the encoder."""
    dtype = jnp.dtype(self.dtype)
    return frozen_network.FrozenNetwork(self.folder, dtype, self.devices)

  def preprocess(self, pictures):
    """[N, S, S, 3] float32, resized and normalised as the encoder takes them."""
    size = self.network.module.size
    return np.concatenate([clip_pixels.preprocess(x[None], size) for x in pictures])

  def __call__(self, pictures):
    pixels = self.preprocess(pictures)
    return self.network.map_rows(self._compiled, [pixels], self.batch_size)

  def encode(self, params, pixels):
    """Tokens [N, L, D] of pixels [N, S, S, 3], in `dtype`."""
    module = self.network.module
    if self.shape is None or self.shape[0] == 1:
      tokens = module.apply(params, pixels)[:, None]
    else:
      tokens = module.apply(params, pixels, method="tokens")
    if self.shape is not None and tokens.shape[1:] != tuple(self.shape):
      raise ValueError(
        f"{self.folder} makes tokens {list(tokens.shape[1:])} of a picture; "
        f"shape={tuple(self.shape)} was asked for."
      )
    return tokens

  def abstract_params(self):
    """Its parameters as ShapeDtypeStructs, boxed with their logical axis names."""
    module = self.network.module
    pixels = jax.ShapeDtypeStruct((1, module.size, module.size, 3), jnp.float32)
    return jax.eval_shape(module.init, jax.random.key(0), pixels)["params"]

  def encode_batch(self, params, batch):
    """The batch with "image" [B, L, D] in place of "image_pixels" [B, S, S, 3]."""
    batch = dict(batch)
    tokens = self.encode(params, batch.pop("image_pixels"))
    return batch | {"image": tokens.astype(jnp.float32)}

  @functools.cached_property
  def _compiled(self):
    return jax.jit(self.encode)
