"""Two autoencoders in a row, the second on the first's latents, as one autoencoder.

Each is trained separately, the second on stored latents, which is quick.
"""

import dataclasses
from typing import Any

from vdm_jax.autoencoders import base


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stacked:
  """Two autoencoders in a row; parameters {"outer": ..., "inner": ...}, each one's own.

  The latents and their statistics are those of `inner`, whose input is the mean of the
  outer latents, of unit variance.

  Attributes:
    outer: autoencoder of the pixels.
    inner: autoencoder of the latents of the outer one.
  """

  outer: Any
  inner: Any

  @property
  def stride(self):
    """Pixels per inner latent in (time, height, width)."""
    return tuple(
      a * b for a, b in zip(self.outer.stride, self.inner.stride, strict=True)
    )

  def init(self, key, video):
    """New parameters {"outer", "inner"} for videos like `video`, [B, T, H, W, C]."""
    outer = self.outer.init(key, video)
    return {"outer": outer, "inner": self.inner.init(key, self._between(outer, video))}

  def encode(self, params, video):
    """Moments of the inner raw latents [B, t, h, w, c] of a video [B, T, H, W, C]."""
    base.check_video(video, self.outer.pixel_channels, self.stride)
    return self.inner.encode(params["inner"], self._between(params["outer"], video))

  def latents(self, params, moments, key):
    """Unit-variance latents of `inner`, [B, t, h, w, c]; the mean if key is None."""
    return self.inner.latents(params["inner"], moments, key)

  def decode(self, params, latents):
    """The video [B, T, H, W, C] of inner latents of unit variance."""
    return self.outer.decode(
      params["outer"], self.inner.decode(params["inner"], latents)
    )

  def with_latent_statistics(self, params, moments):
    """`params` whose inner shift and scale are measured on an iterable of Moments."""
    return {
      **params,
      "inner": self.inner.with_latent_statistics(params["inner"], moments),
    }

  def _between(self, outer, video):
    return self.outer.latents(outer, self.outer.encode(outer, video), None)
