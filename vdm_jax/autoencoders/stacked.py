"""Two autoencoders, the second of the first's latents: one from pixels to the inmost.

Each is trained by itself, the second on stored latents, which is quick. The first
mends what a frame looks like, the second says what a clip does.
"""

import dataclasses
from typing import Any

from vdm_jax.autoencoders import base


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stacked:
  """Parameters: {"outer": ..., "inner": ...}, each autoencoder's own.

  The latents, and their statistics, are the inner one's. Between the two, latents are
  means of unit variance, as `data.sources.RecordFolder` gives them.

  Attributes:
    outer: of the pixels, see autoencoders/base.py.
    inner: of the latents of the outer one.
  """

  outer: Any
  inner: Any

  @property
  def stride(self):
    """Pixels per inmost latent in time, height, width."""
    return tuple(
      a * b for a, b in zip(self.outer.stride, self.inner.stride, strict=True)
    )

  def init(self, key, video):
    """Parameters for videos like `video`, [B, T, H, W, C]."""
    outer = self.outer.init(key, video)
    return {"outer": outer, "inner": self.inner.init(key, self._between(outer, video))}

  def encode(self, params, video):
    """Moments of the raw inmost latents."""
    base.check_video(video, self.outer.pixel_channels, self.stride)
    return self.inner.encode(params["inner"], self._between(params["outer"], video))

  def latents(self, params, moments, key):
    """Inmost latents of unit variance: a sample, or the mean if key is None."""
    return self.inner.latents(params["inner"], moments, key)

  def decode(self, params, latents):
    """The video of inmost latents of unit variance."""
    return self.outer.decode(
      params["outer"], self.inner.decode(params["inner"], latents)
    )

  def measure(self, params, moments):
    """`params` with the inner autoencoder's latents measured."""
    return {**params, "inner": self.inner.measure(params["inner"], moments)}

  def _between(self, outer, video):
    return self.outer.latents(outer, self.outer.encode(outer, video), None)
