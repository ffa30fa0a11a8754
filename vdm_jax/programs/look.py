"""Looks at pictures with CLIP: what a clip's first frame is told as, once for all runs.

An image encoder here is a folder in the layout of `transformers`, such as
`image_encoder` of Stable Video Diffusion: config.json and weights.
"""

import functools
import pathlib

import jax
import numpy as np

from vdm_jax import batches, pretrained
from vdm_jax.encoders import clip_pixels
from vdm_jax.programs import process_shards


class ImageEncoder:
  """(pictures uint8 [N, H, W, 3]) -> tokens [N, L, D] float32.

  Pictures are spread over all devices of this process.

  Args:
    folder: see above; nothing is read before the first call.
    shape: (L, D). With L = 1 the embedding of the whole picture, as Stable Video
      Diffusion is told it; otherwise the class token and the patches, as VideoCrafter's
      resampler reads them: (257, 1280) of ViT-H/14.
    batch_size: pictures at a time.
  """

  def __init__(self, folder, shape=(1, 1024), batch_size=64):
    self.folder, self.shape = pathlib.Path(folder), tuple(shape)
    self.batch_size = batch_size

  @functools.cached_property
  def network(self):
    """(module, compiled function, params on each of the devices)."""
    if not (self.folder / "config.json").is_file():
      raise FileNotFoundError(
        f"There is no image encoder in {self.folder}, a folder of config.json and "
        "weights; give the path of one."
      )
    module, params = pretrained.load(
      self.folder, mesh=self.mesh, rules=process_shards.RULES
    )
    one = self.shape[0] == 1

    def look(params, pixels):
      if one:
        return module.apply(params, pixels)[:, None]
      return module.apply(params, pixels, method="tokens")

    return module, jax.jit(look), params

  @functools.cached_property
  def mesh(self):
    return process_shards.local_mesh()

  @property
  def params(self):
    return self.network[2]

  def __call__(self, pictures):
    module, look, params = self.network
    found = batches.map_batches(
      lambda batch: look(params, batch["pixels"]),
      {"pixels": clip_pixels.pixels(pictures, module.size)},
      self.batch_size,
      mesh=self.mesh,
      rules=process_shards.RULES,
    )
    found = np.asarray(found, np.float32)
    if found.shape[1:] != self.shape:
      raise ValueError(
        f"{self.folder} makes tokens {list(found.shape[1:])} of a picture; "
        f"shape={self.shape} was asked for."
      )
    return found
