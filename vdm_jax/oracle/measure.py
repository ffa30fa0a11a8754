"""Exact errors of samplers on Gaussian data, without sampling.

`sampler_affine_map` finds a sampler's matrix J; the covariance of its videos is J J',
and Wasserstein distances, seams and correlations follow by linear algebra.
"""

import jax.numpy as jnp
import numpy as np

from vdm_jax.diffusion.samplers import loop
from vdm_jax.metrics import frechet


def sampler_affine_map(run, num_frames, *, num_steps=0):
  """(J [T, K], mean [T]), float64, of a sampler whose videos are J noise + mean.

  On Gaussian data every sampler is such an affine map of the noises that it draws.

  Args:
    run: (noise [1, T, K, 1, 1], key) -> videos of that shape; pixels must not mix.
    num_frames: T.
    num_steps: of a sampler that draws noise in each step; its key is RecordedNoise.
      K = T (num_steps + 1): the first T noises are the initial ones.
  """
  count = num_frames * (num_steps + 1)
  basis = np.eye(count).reshape(num_steps + 1, num_frames, count)
  basis = np.concatenate([basis, np.zeros((*basis.shape[:2], 1))], axis=-1)
  basis = basis[:, None, ..., None, None]
  key = loop.RecordedNoise(jnp.asarray(basis[1:], float) if num_steps else None)
  out = np.asarray(run(jnp.asarray(basis[0], float), key), np.float64)[0, :, :, 0, 0]
  return out[:, :-1] - out[:, -1:], out[:, -1]


def covariance(jacobian):
  """J J' [T, T]: the covariance of a sampler's videos J noise + mean, J [T, K]."""
  return jacobian @ jacobian.T


def squared_wasserstein_per_frame(cov_a, cov_b, mean_a=0.0, mean_b=0.0):
  """Squared 2-Wasserstein distance over T, a float, of Gaussians, covariances [T, T].

  (|m_a - m_b|^2 + tr(a + b - 2 (a^1/2 b a^1/2)^1/2)) / T of covariances a and b, means
  [T] or numbers.
  """
  mean_a, mean_b = (np.broadcast_to(m, len(cov_a)) for m in (mean_a, mean_b))
  return frechet.gaussian_distance(mean_a, cov_a, mean_b, cov_b) / len(cov_a)


def mean_squared_jumps(cov):
  """E (x_{i+1} - x_i)^2 [T - 1] of successive frames with covariance `cov` [T, T]."""
  var = np.diag(cov)
  return var[1:] + var[:-1] - 2.0 * np.diag(cov, 1)


def seam_ratio(cov, truth, at):
  """Mean squared jump into the frames `at`, over the true one, a float; 1 is seamless.

  From covariances [T, T] of a sampler's videos and of the data; `at` are frame indices.
  """
  at = np.asarray(at) - 1
  return float(
    mean_squared_jumps(cov)[at].mean() / mean_squared_jumps(truth)[at].mean()
  )


def motion_ratio(cov, truth):
  """Mean squared jump between frames over the true one, a float; covariances [T, T]."""
  return float(mean_squared_jumps(cov).mean() / mean_squared_jumps(truth).mean())


def end_correlation(cov):
  """Correlation of the first frame with the last, a float, from a covariance [T, T]."""
  return float(cov[0, -1] / np.sqrt(cov[0, 0] * cov[-1, -1]))


def mean_variance(cov):
  """The mean variance of the frames, a float, from a covariance [T, T]."""
  return float(np.diag(cov).mean())


def convergence_order(errors, steps):
  """Order of convergence, a float: minus the slope of log errors over log steps."""
  return float(-np.polyfit(np.log(steps), np.log(errors), 1)[0])
