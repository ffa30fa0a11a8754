"""Frechet distance between two sets of features, as in FID and FVD.

  |m1 - m2|^2 + tr(S1 + S2 - 2 (S1^1/2 S2 S1^1/2)^1/2)

Dowson and Landau 1982; https://arxiv.org/abs/1706.08500. Only symmetric matrices are
decomposed, in float64, so nothing becomes complex and small sets need no epsilon.
"""

import numpy as np


def distance(x, y, *, ddof=1):
  """The squared Frechet distance, a float, of Gaussians fitted to two feature sets.

  Args:
    x, y: [N, D] and [M, D], of any float type; finite.
    ddof: 1 divides the covariance by N - 1 (FID, original FVD), 0 by N (StyleGAN-V).
  """
  if ddof not in (0, 1):
    raise ValueError(f"ddof={ddof}; expected 0 (divide by N) or 1 (by N - 1).")
  x, y = _checked("x", x), _checked("y", y)
  if x.shape[1] != y.shape[1]:
    raise ValueError(f"Features of {x.shape[1]} and {y.shape[1]} dimensions differ.")
  return gaussian_distance(
    *mean_and_covariance(x, ddof=ddof), *mean_and_covariance(y, ddof=ddof)
  )


def mean_and_covariance(x, *, ddof=1):
  """(mean [D], covariance [D, D], divided by N - ddof) of features x [N, D]."""
  x = np.asarray(x, np.float64)
  return x.mean(0), np.atleast_2d(np.cov(x, rowvar=False, ddof=ddof))


def gaussian_distance(mean_x, cov_x, mean_y, cov_y):
  """The squared Frechet distance, a float, of two Gaussians: means [D], covs [D, D]."""
  root = _sqrt(np.asarray(cov_x, np.float64))
  cross = np.linalg.eigvalsh(root @ cov_y @ root)
  shared = np.sqrt(np.clip(cross, 0.0, None)).sum()
  means = np.square(mean_x - mean_y).sum()
  return float(max(means + np.trace(cov_x) + np.trace(cov_y) - 2.0 * shared, 0.0))


def _sqrt(matrix):
  """The symmetric square root of a covariance."""
  values, vectors = np.linalg.eigh(matrix)
  return (vectors * np.sqrt(np.clip(values, 0.0, None))) @ vectors.T


def _checked(name, x):
  x = np.asarray(x, np.float64)
  if x.ndim != 2 or len(x) < 2:
    raise ValueError(f"{name} has shape {x.shape}; expected [N, D] with N >= 2.")
  if not np.isfinite(x).all():
    raise ValueError(
      f"{name} holds {np.sum(~np.isfinite(x))} values that are not finite."
    )
  return x
