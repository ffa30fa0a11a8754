"""Images to the tokens that a network attends to: a frozen image encoder, CLIP's."""

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
  """A frozen CLIP image encoder; called on images: tokens [N, L, D] float32, numpy.

  The images are uint8 [N, H, W, 3], or N arrays [H, W, 3] of any size.

  Attributes:
    folder: of an encoder in the layout of `transformers`, such as `image_encoder` of
      Stable Video Diffusion: config.json and weights. Opened on the first use.
    shape: (L, D). With L = 1 the embedding of the whole image, as Stable Video
      Diffusion attends to it; otherwise the hidden states of the class token and of
      the patches, for VideoCrafter's resampler: (257, 1280) of ViT-H/14. None: the
      embedding, of any width.
    batch_size: images at a time.
    dtype: of the parameters and of the computation.
    devices: (jax.sharding.Mesh, rules) of the parameters; None: copies on each device.
    inputs: names of the entries of a batch that `encode_batch` replaces.
  """

  folder: Any
  shape: tuple[int, int] | None = (1, 1024)
  batch_size: int = 64
  dtype: Any = "float32"
  devices: tuple | None = None

  inputs = ("image_pixels",)

  @functools.cached_property
  def network(self):
    """The encoder, a FrozenNetwork with `module` and `params`."""
    dtype = jnp.dtype(self.dtype)
    return frozen_network.FrozenNetwork(self.folder, dtype, self.devices)

  def preprocess(self, pictures):
    """Images resized and normalised for the encoder, [N, S, S, 3] float32.

    `pictures` are uint8 [N, H, W, 3], or N arrays [H, W, 3] of any size.
    """
    size = self.network.module.size
    return np.concatenate([clip_pixels.preprocess(x[None], size) for x in pictures])

  def __call__(self, pictures):
    """Tokens [N, L, D], float32 numpy, of uint8 images [N, H, W, 3] or N of them."""
    pixels = self.preprocess(pictures)
    return self.network.map_rows(self.encode, [pixels], self.batch_size)

  def encode(self, params, pixels):
    """Tokens [N, L, D], in `dtype`, of preprocessed pixels [N, S, S, 3].

    `params` are the encoder's. ValueError: the tokens have not the shape (L, D).
    """
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
    """The encoder's parameters as nested ShapeDtypeStructs, boxed with axis names."""
    module = self.network.module
    pixels = jax.ShapeDtypeStruct((1, module.size, module.size, 3), jnp.float32)
    return jax.eval_shape(module.init, jax.random.key(0), pixels)["params"]

  def encode_batch(self, params, batch):
    """The batch with "image" [B, L, D] in place of "image_pixels" [B, S, S, 3].

    `params` are the encoder's; the batch is {name: array [B, ...]}.
    """
    batch = dict(batch)
    tokens = self.encode(params, batch.pop("image_pixels"))
    return batch | {"image": tokens.astype(jnp.float32)}
