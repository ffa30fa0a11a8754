"""A trained video model as one argument: its parts, weights, and how it is sampled."""

import dataclasses
from collections.abc import Callable
from typing import Any

from vdm_jax import video_io


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Generator:
  """A trained video model with its sampler: makes videos of the signals of a batch.

  Holds names of its weights and no arrays; parameters are a dict, {"denoiser": ...,
  "autoencoder": ...}, as `load` returns it.

  Attributes:
    task: a LatentDiffusion.
    shape: [T, h, w, c] of one video's latents.
    sampler: (denoise, process, x, ts, cond, key) -> x0.
    ts: times [S + 1] or [S + 1, T], or process -> times.
    wrappers: (denoise, null) -> denoise, innermost first: guidance, windows, caches.
    weights: of the denoiser: the folder of a training stage under the workdir, or a
      nested dict of arrays.
    autoencoder: video autoencoder with encode and decode; None: latents only.
    autoencoder_weights: a folder or nested dict, as for the denoiser.
  """

  task: Any
  shape: tuple[int, ...]
  sampler: Callable
  ts: Any
  wrappers: tuple[Callable, ...] = ()
  weights: Any = None
  autoencoder: Any = None
  autoencoder_weights: Any = None

  def load(self, job):
    """The parameters {"denoiser", "autoencoder"} (EMA) on a programs.job.Job's mesh."""
    params = {"denoiser": job.weights(self.weights)}
    if self.autoencoder is not None:
      part = "ema/autoencoder"
      params["autoencoder"] = job.weights(self.autoencoder_weights, part)
    return params

  def latents(self, params, batch, key, **options):
    """Latents [B, T, h, w, c], sampled for the signals {name: [B, ...]} of a batch.

    `params` has "denoiser"; `options` are of LatentDiffusion.sample: `start`, or
    `known` and `mask`.
    """
    return self.task.sample(
      params["denoiser"],
      batch,
      (len(next(iter(batch.values()))), *self.shape),
      key,
      sampler=self.sampler,
      ts=self.ts,
      wrappers=self.wrappers,
      **options,
    )

  def encode(self, params, video):
    """Latents [B, t, h, w, c] (posterior means) of uint8 videos [B, T, H, W, 3]."""
    weights = params["autoencoder"]
    moments = self.autoencoder.encode(weights, video_io.to_float(video))
    return self.autoencoder.latents(weights, moments, None)

  def decode(self, params, latents):
    """uint8 videos [B, T, H, W, 3], decoded from latents [B, t, h, w, c]."""
    return video_io.to_uint8(self.autoencoder.decode(params["autoencoder"], latents))

  def videos(self, params, batch, key, **options):
    """uint8 videos [B, T, H, W, 3], sampled for a batch of signals {name: [B, ...]}.

    `options` are of LatentDiffusion.sample: `start`, or `known` and `mask`.
    """
    return self.decode(params, self.latents(params, batch, key, **options))

  def videos_and_finite(self, params, batch, key):
    """(`videos`, {"latents": bool [B, t], "frames": [B, T]}): which frames are finite.

    For `video_io.check_finite`; in a video of whole numbers it cannot be seen.
    """
    return self.decode_and_finite(params, self.latents(params, batch, key))

  def decode_and_finite(self, params, latents):
    """(`decode`, what is finite), as `videos_and_finite`."""
    video = self.autoencoder.decode(params["autoencoder"], latents)
    finite = {"latents": latents, "frames": video}
    finite = {k: video_io.finite_frames(x) for k, x in finite.items()}
    return video_io.to_uint8(video), finite
