"""Methods for long videos, compared exactly with the true distribution: no network."""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np

from vdm_jax.diffusion import denoise as d
from vdm_jax.diffusion import noise
from vdm_jax.oracle import measure


@dataclasses.dataclass(frozen=True, kw_only=True)
class LongVideoMethod:
  """How long videos are sampled: sampler, wrappers, schedule and initial noise.

  Attributes:
    sampler: (denoise, process, x, ts, cond, key) -> x0, of the whole video.
    wrappers: (denoise, null) -> denoise, around the exact one, innermost first.
    schedule: (grid, num_frames) -> schedule matrix; None is the grid itself.
    initial_noise: noise [B, T, H, W, C] -> the initial noise; None is the identity.
    denoiser: (distribution, process) -> denoise; None is the exact one.
    seams: (first, every): the frames at which windows meet.
    draws: number of times that the sampler draws noise: steps, or windows.
    margin: frames at both ends that are sampled and not scored, for methods whose ends
      differ from the rest.
  """

  sampler: Callable
  wrappers: tuple = ()
  schedule: Callable | None = None
  initial_noise: Callable | None = None
  denoiser: Callable | None = None
  seams: tuple[int, int] = (1, 1)
  draws: int = 0
  margin: int = 0


def scores_and_covariance(method, distribution, process, grid, num_frames):
  """(scores, covariance [T, T]) of a LongVideoMethod's videos, computed exactly.

  Args:
    distribution: of the true videos, an oracle.gaussian.GaussianVideo.
    process: forward process, which gives alpha and sigma of t.
    grid: falling times [S + 1].

  Returns:
    {name: float}: "distance", W2^2 / T to the truth; "seam", the mean squared jump
    where windows meet, over the true one; "memory", the correlation of the first frame
    with the last; "variance" of a frame and "motion", the mean squared jump of all
    frames, both over the true one.
  """
  with jax.enable_x64(True):
    length = num_frames + 2 * method.margin
    exact = distribution.denoiser if method.denoiser is None else None
    denoise = exact(process) if exact else method.denoiser(distribution, process)
    denoise = d.apply_wrappers(denoise, method.wrappers, None)
    ts = grid if method.schedule is None else method.schedule(grid, length)

    @jax.jit
    def run(x, key):
      x = x if method.initial_noise is None else method.initial_noise(x)
      return method.sampler(denoise, process, x, ts, None, key)

    jacobian, mean = measure.sampler_affine_map(run, length, num_steps=method.draws)
    scored = slice(method.margin, method.margin + num_frames)
    cov = measure.covariance(jacobian[scored])
    truth = np.asarray(distribution.covariance(num_frames))
    distance = measure.squared_wasserstein_per_frame(
      cov, truth, mean[scored], distribution.mean
    )
  first, every = method.seams
  return {
    "distance": distance,
    "seam": measure.seam_ratio(cov, truth, range(first, num_frames, every)),
    "memory": measure.end_correlation(cov),
    "variance": measure.mean_variance(cov) / measure.mean_variance(truth),
    "motion": measure.motion_ratio(cov, truth),
  }, cov


def reorder_as_free_noise(x, *, window, stride, seed=0):
  """FreeNoise's reordering of noise x, [B, T, H, W, C]: LongVideoMethod.initial_noise.

  The first `window` frames, repeated in orders shuffled `stride` frames at a time.
  """
  key = jax.random.key(seed)
  return x[:, noise.free_noise_order(key, x.shape[1], window, stride)]


def causal_denoiser(distribution, process):
  """A denoiser (x_t, t [B, T], cond) -> Denoised, exact given the frames up to each.

  `distribution` is an oracle.gaussian.GaussianVideo; for LongVideoMethod.denoiser.
  """
  return distribution.causal_denoiser(process)
