"""Gaussian-process videos: the best denoiser is a linear regression, known exactly.

The values of a pixel over time are x ~ N(mean, C), C[i, j] = kernel(i, j); pixels are
independent copies. With a noise level for each frame, A = diag(alpha) and
S = diag(sigma^2),

  x_t = A x + noise,    E[x | x_t] = mean + C A (A C A + S)^-1 (x_t - A mean)

The formula holds for any positions of the frames (`cond.positions`): so this is also
the exact denoiser of a window and, with frames at time 0, the exact conditional one. A
sampler's error is then due to the sampler only.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from einops import rearrange

from vdm_jax.diffusion import denoise as d
from vdm_jax.diffusion import process as p


def ornstein_uhlenbeck(i, j, *, correlation, variance=1.0):
  """Covariance of frames i and j, variance correlation^|i - j|: rough, Markov motion.

  Of the broadcast shape of the positions i and j: the AR(1) kernel.
  """
  return variance * correlation ** jnp.abs(i - j)


def rbf(i, j, *, length, variance=1.0):
  """Squared-exponential covariance of frames at positions i and j: smooth motion.

  variance exp(-(i - j)^2 / (2 length^2)), of the broadcast shape of i and j.
  """
  return variance * jnp.exp(-0.5 * ((i - j) / length) ** 2)


def constant(i, j, *, variance):
  """Covariance `variance` for all frames i and j, of their shape: a static scene."""
  return variance * jnp.ones_like(i * j)


def kernel_sum(i, j, *, kernels):
  """Covariance of frames i and j, the sum of `kernels`, each (i, j) -> covariance."""
  return sum(kernel(i, j) for kernel in kernels)


@dataclasses.dataclass(frozen=True)
class GaussianVideo:
  """Videos [T, H, W, C] whose pixels are independent Gaussian processes over frames.

  The best denoiser is known exactly, for tests of samplers without a network.

  Attributes:
    kernel: (i, j) -> covariance of the frames at positions i and j, broadcast arrays.
    mean: of every value.
  """

  kernel: Callable
  mean: float = 0.0

  def covariance(self, positions):
    """Covariance [..., T, T] of frames at `positions` [..., T]; T means 0 .. T - 1."""
    if isinstance(positions, int):
      positions = jnp.arange(positions)
    i = jnp.asarray(positions, float)
    return self.kernel(i[..., :, None], i[..., None, :])

  def sample(self, key, shape, positions=None):
    """Videos of `shape` [B, T, H, W, C], of frames at positions [T] (0 .. T - 1)."""
    root = _root(self.covariance(shape[1] if positions is None else positions))
    return self.mean + _over_time(root, jax.random.normal(key, shape, float))

  def denoiser(self, process):
    """The exact denoiser (x_t, t [B, T], cond) -> Denoised, by cond.positions."""
    return self._denoiser(process, jnp.linalg.solve)

  def causal_denoiser(self, process):
    """A denoiser (x_t, t [B, T], cond) -> Denoised, exact given the frames up to each.

    The bound of attention with a causal mask. It is optimal for each frame, but the
    estimates are not consistent as a video: see `experiments/exact_long_video`.
    """

    def solve(both, seen):
      # Forward substitution is causal: L^-1 of the first k frames is cut from L^-1.
      root = jnp.linalg.cholesky(both)
      forward = functools.partial(jax.scipy.linalg.solve_triangular, root, lower=True)
      weights = jnp.triu(forward(seen))  # of the innovations j <= k, for frame k
      return forward(weights, trans=1)

    return self._denoiser(process, solve)

  def _denoiser(self, process, solve):
    """The linear denoiser whose gain is solve(A C A + S, A C)', see `_system`."""

    def denoise(x_t, t, cond):
      alpha, sigma = process.alpha_sigma(t)
      seen, both, n = _system(self._covariance(t, cond), alpha, sigma)
      gain = solve(both, seen).swapaxes(-1, -2) / n[:, None, :]
      rest = x_t - p.expand(alpha) * self.mean
      return d.Denoised(self.mean + _over_time(gain, rest))

    return denoise

  def log_density(self, process, x_t, t, cond=None):
    """log p(x_t) [B] of noisy videos x_t [B, T, H, W, C] at times t [B, T]."""
    alpha, sigma = process.alpha_sigma(t)
    _, both, n = _system(self._covariance(t, cond), alpha, sigma)
    root = jnp.linalg.cholesky(both)
    rest = (x_t - p.expand(alpha) * self.mean) / p.expand(n)
    rest = rearrange(rest, "b t h w c -> b t (h w c)")
    white = jax.scipy.linalg.solve_triangular(root, rest, lower=True)
    size = jnp.log(2 * jnp.pi) / 2 + jnp.log(n * jnp.diagonal(root, axis1=1, axis2=2))
    return -0.5 * jnp.sum(white**2, axis=(1, 2)) - rest.shape[-1] * size.sum(axis=1)

  def bayes_loss(self, process, prediction, t, positions=None):
    """The least mean squared error [B, T] of the prediction F at times t [B, T].

    The lower bound of the training loss of `prediction`.
    """
    alpha, sigma = process.alpha_sigma(t)
    c = self._covariance(t, None, positions)
    seen, both, n = _system(c, alpha, sigma)
    diagonal = functools.partial(jnp.diagonal, axis1=-2, axis2=-1)
    # Var(x0 | x_t) = (sigma / alpha)^2 Var(eps | x_t): the one that does not cancel.
    x0 = diagonal(c) - jnp.sum(seen * jnp.linalg.solve(both, seen), axis=-2)
    eps = 1.0 - (sigma / n) ** 2 * diagonal(jnp.linalg.inv(both))
    det = p.determinant(prediction, process, t)
    return det**2 * jnp.where(sigma < alpha, eps / alpha**2, x0 / sigma**2)

  def probability_flow(self, process, x, t, s):
    """x_s [B, T, H, W, C]: the probability flow ODE, solved exactly from x at t to s.

      x_s = alpha_s mean + C_s^(1/2) C_t^(-1/2) (x_t - alpha_t mean)

    with C_t = alpha_t^2 C + sigma_t^2, which all share their eigenvectors. t and s are
    numbers: all frames have the same time.
    """
    values, vectors = jnp.linalg.eigh(self.covariance(x.shape[1]))

    def scaled_variances(t):
      alpha, sigma = process.alpha_sigma(jnp.full((1, 1), t, float))
      return alpha[0, 0], alpha[0, 0] ** 2 * values + sigma[0, 0] ** 2

    (alpha, before), (alpha_s, after) = scaled_variances(t), scaled_variances(s)
    root = vectors * jnp.sqrt(after / before)
    map_ = jnp.matmul(root, vectors.T, precision="highest")
    return alpha_s * self.mean + _over_time(map_, x - alpha * self.mean)

  def _covariance(self, t, cond, positions=None):
    """[B, T, T], or [1, T, T] if all examples have the same positions."""
    if positions is None and cond is not None:
      positions = cond.positions
    if positions is None:
      return self.covariance(t.shape[1])[None]
    return self.covariance(jnp.atleast_2d(positions))


def _system(c, alpha, sigma):
  """(A C, A C A + S) [B, T, T] of x_t / n, and n = sqrt(alpha^2 + sigma^2) [B, T].

  Divided by n the matrix keeps its scale from clean frames to pure noise. S is kept
  above T eps, the rounding of C, so that clean frames may be alike (`shared`, `rbf`):
  clean is then a deviation of 0.001 (16 frames) in float32, and FLOOR in float64.
  """
  n = jnp.sqrt(alpha**2 + sigma**2)
  a, s = alpha / n, sigma / n
  seen = a[:, :, None] * c
  least = c.shape[-1] * jnp.finfo(c.dtype).eps * jnp.max(c, axis=(-2, -1))
  noise = jnp.maximum(s**2, least[:, None])
  return seen, seen * a[:, None, :] + jnp.eye(c.shape[-1]) * noise[:, None, :], n


def _over_time(matrix, x):
  """A matrix [B or none, T, T'] on the frames of x [B, T', H, W, C]."""
  flat = rearrange(x, "b t h w c -> b t (h w c)")
  out = jnp.matmul(matrix, flat, precision="highest")
  return out.reshape(x.shape)


def _root(c):
  """A square root of a covariance, which may be singular."""
  values, vectors = jnp.linalg.eigh(c)
  return vectors * jnp.sqrt(jnp.maximum(values, 0.0))[..., None, :]
