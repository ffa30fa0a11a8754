"""The contract of autoencoders: video to moments of latents, latents to video.

An autoencoder is a frozen dataclass without arrays. Its parameters are a nested dict;
under "latents" they hold the measured mean ("shift") and standard deviation ("scale")
of each channel of the latents. These two are data, not weights: no gradient reaches
them, `optimizer.weight_decay_mask` leaves them out, `with_latent_statistics` sets them.

Classes that keep their statistics so take both methods from this module: `latents =
base.normalized_latents`, `with_latent_statistics = base.with_latent_statistics`.
"""

from typing import Any, Protocol

import flax
import jax
import jax.numpy as jnp
import numpy as np

LOGVAR_RANGE = (-30.0, 20.0)


@flax.struct.dataclass
class Moments:
  """A diagonal Gaussian over raw latents: `mean` and `logvar`, [B, t, h, w, c] each."""

  mean: Any
  logvar: Any


class Autoencoder(Protocol):
  """The interface of autoencoders; `params` are a nested dict that `init` gives.

  Attributes:
    stride: pixels per latent in (time, height, width).
  """

  stride: tuple[int, int, int]

  def init(self, key, video):
    """Parameters {..., "latents": {"shift": [c], "scale": [c]}} for videos like it."""

  def encode(self, params, video) -> Moments:
    """Moments of raw latents [B, t, h, w, c] of a video [B, T, H, W, C] in [-1, 1]."""

  def latents(self, params, moments, key):
    """Unit-variance latents [B, t, h, w, c] from Moments; the mean if key is None."""

  def decode(self, params, latents):
    """The video [B, T, H, W, C] of latents of unit variance [B, t, h, w, c]."""

  def with_latent_statistics(self, params, moments):
    """`params` whose shift and scale are measured on an iterable of Moments."""


def normalized_latents(autoencoder, params, moments, key):
  """Unit-variance latents [B, t, h, w, c] from Moments; the mean if key is None."""
  del autoencoder
  return normalize(params["latents"], sample_from_moments(moments, key))


# The dtypes of a layer, as every flax module takes them.
dtypes = property(lambda self: dict(dtype=self.dtype, param_dtype=self.param_dtype))


def denormalize_latents(autoencoder, params, latents):
  """Raw latents [B, t, h, w, c], z scale + shift, of latents z of unit variance."""
  check_latents(latents, autoencoder.latent_channels)
  return denormalize(params["latents"], latents)


def with_latent_statistics(autoencoder, params, moments):
  """`params` with the latents' shift and scale measured on an iterable of Moments."""
  del autoencoder
  return {**params, "latents": measure_statistics(moments)}


def network_variables(params):
  """{"params": params without "latents"}: the variables of the linen network."""
  return {"params": {k: v for k, v in params.items() if k != "latents"}}


def moments_from_stacked(stacked):
  """Moments from mean and logvar stacked along the channels, [B, t, h, w, 2 c]."""
  mean, logvar = jnp.split(stacked, 2, axis=-1)
  return Moments(mean, clip_logvar(logvar))


def sample_from_moments(moments, key):
  """Raw latents [B, t, h, w, c] drawn from Moments; their mean if key is None."""
  if key is None:
    return moments.mean
  noise = jax.random.normal(key, moments.mean.shape, moments.mean.dtype)
  return moments.mean + jnp.exp(0.5 * moments.logvar) * noise


def elementwise_kl(moments):
  """KL(posterior || N(0, 1)) in nats of each latent of Moments, [B, t, h, w, c]."""
  mean, logvar = moments.mean, moments.logvar
  return 0.5 * (jnp.square(mean) + jnp.exp(logvar) - 1.0 - logvar)


def clip_logvar(logvar):
  """logvar clipped to [-30, 20]: exp(logvar) is finite and above zero in float32."""
  return jnp.clip(logvar, *LOGVAR_RANGE)


def check_video(video, channels, multiples, field="stride"):
  """Raises a ValueError unless a video is [B, T, H, W, channels] of such sizes.

  Args:
    channels: of the video.
    multiples: (time, height, width) that must divide the video's sizes.
    field: name of the autoencoder's field with these numbers, for the message.
  """
  if video.ndim != 5 or video.shape[-1] != channels:
    raise ValueError(f"video of shape {video.shape} must be [B, T, H, W, {channels}].")
  axes = zip(("frames", "height", "width"), video.shape[1:4], multiples, strict=True)
  for name, size, s in axes:
    if size % s:
      low, high = size // s * s, size // s * s + s
      near = f"{low} and {high}" if low else f"{high}"
      raise ValueError(
        f"{name}={size} must be a multiple of {s} (the autoencoder's {field}); the "
        f"nearest: {near}. Resize or crop the video."
      )


def check_latents(latents, channels):
  """Raises a ValueError unless `latents` is [B, t, h, w, channels]."""
  if latents.ndim != 5 or latents.shape[-1] != channels:
    raise ValueError(
      f"latents of shape {latents.shape} must be [B, T, h, w, c] with "
      f"c = latent_channels = {channels}."
    )


def identity_statistics(channels):
  """{"shift": zeros [c], "scale": ones [c]}, c = channels: before any measurement."""
  return {"shift": jnp.zeros(channels), "scale": jnp.ones(channels)}


def normalize(stats, z):
  """(z - shift) / scale of raw latents z [..., c]; no gradient to `stats`.

  `stats` is {"shift": [c], "scale": [c]}.
  """
  stats = jax.lax.stop_gradient(stats)
  return (z - stats["shift"]) / stats["scale"]


def denormalize(stats, z):
  """z scale + shift, the raw latents of z [..., c]; no gradient to `stats`.

  `stats` is {"shift": [c], "scale": [c]}.
  """
  stats = jax.lax.stop_gradient(stats)
  return z * stats["scale"] + stats["shift"]


def measure_statistics(moments):
  """{"shift": [c], "scale": [c]} of an iterable of Moments: mean, deviation of samples.

  The variance of a sample is the variance of the means plus the mean of the variances.
  Sums in float64, about the first batch's mean. A constant channel keeps scale 1.

  Raises:
    ValueError: for no moments, or moments that are not finite.
  """
  count, first, second, spread = 0, 0.0, 0.0, 0.0
  origin = None
  for i, m in enumerate(moments):
    mean, logvar = (np.asarray(x, np.float64) for x in (m.mean, m.logvar))
    if not (np.isfinite(mean).all() and np.isfinite(logvar).all()):
      raise ValueError(
        f"Moments number {i} are not all finite, so the latents cannot be measured; "
        "the autoencoder has diverged: restore an earlier checkpoint."
      )
    axes = tuple(range(mean.ndim - 1))
    origin = mean.mean(axes) if origin is None else origin
    count += mean[..., 0].size
    first += (mean - origin).sum(axes)
    second += np.square(mean - origin).sum(axes)
    spread += np.exp(logvar).sum(axes)
  if not count:
    raise ValueError("No moments came; measuring the latents needs at least one batch.")
  variance = np.maximum(second / count - np.square(first / count), 0.0) + spread / count
  scale = np.where(variance > 1e-12, np.sqrt(variance), 1.0)
  return {
    "shift": jnp.asarray(origin + first / count, jnp.float32),
    "scale": jnp.asarray(scale, jnp.float32),
  }
