"""Methods for long videos, scored exactly against the truth.

A method is a sampler with what surrounds it. `score` sends the identity through it with
the exact denoiser of a Gaussian video and measures the covariance that comes out, in
double precision: a new method is ranked among the known ones without a network.
"""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np

from vdm_jax.diffusion import denoise as d
from vdm_jax.diffusion import noise
from vdm_jax.oracle import measure


@dataclasses.dataclass(frozen=True, kw_only=True)
class LongVideoMethod:
  """How a long video is made.

  Attributes:
    sampler: (denoise, process, x, ts, cond, key) -> x0, of the whole video.
    wrappers: around the exact denoiser, innermost first.
    schedule: (grid, num_frames) -> matrix; None is the grid itself.
    start: noise [B, T, H, W, C] -> the noise to start from; None leaves it.
    denoiser: (world, process) -> denoise; None is the exact one.
    seams: (first, every): the frames at which windows meet.
    draws: sets of noise that the sampler draws: steps, or windows.
    margin: frames made at both ends and not judged, for methods that start and end
      differently from how they go on.
  """

  sampler: Callable
  wrappers: tuple = ()
  schedule: Callable | None = None
  start: Callable | None = None
  denoiser: Callable | None = None
  seams: tuple[int, int] = (1, 1)
  draws: int = 0
  margin: int = 0


def score(method, world, process, grid, num_frames):
  """({measure: number}, covariance [T, T]) of a method's videos.

  Returns:
    distance: W2^2 / T to the truth.
    seam: the mean squared jump where windows meet, over the truth's.
    memory: the correlation of the first frame with the last.
    variance: of a frame, over the truth's.
    motion: the mean squared jump everywhere, over the truth's.
  """
  with jax.enable_x64(True):
    length = num_frames + 2 * method.margin
    exact = world.denoiser if method.denoiser is None else None
    denoise = exact(process) if exact else method.denoiser(world, process)
    denoise = d.apply_wrappers(denoise, method.wrappers, None)
    ts = grid if method.schedule is None else method.schedule(grid, length)

    @jax.jit
    def run(x, key):
      x = x if method.start is None else method.start(x)
      return method.sampler(denoise, process, x, ts, None, key)

    jacobian, mean = measure.affine_map(run, length, num_steps=method.draws)
    judged = slice(method.margin, method.margin + num_frames)
    cov = measure.covariance(jacobian[judged])
    truth = np.asarray(world.covariance(num_frames))
    distance = measure.gaussian_wasserstein(cov, truth, mean[judged], world.mean)
  first, every = method.seams
  return {
    "distance": distance,
    "seam": measure.seam_ratio(cov, truth, range(first, num_frames, every)),
    "memory": measure.end_correlation(cov),
    "variance": measure.mean_variance(cov) / measure.mean_variance(truth),
    "motion": measure.motion_ratio(cov, truth),
  }, cov


def free_noise(x, *, window, stride, seed=0):
  """`noise.free_noise` of noise that is there: a `start`."""
  key = jax.random.key(seed)
  return x[:, noise.free_noise_order(key, x.shape[1], window, stride)]


def causal_denoiser(world, process):
  """The exact denoiser that sees no later frame: a `denoiser`."""
  return world.causal_denoiser(process)
