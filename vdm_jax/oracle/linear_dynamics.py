"""Linear dynamics: videos whose next frame is a linear map of this one, plus noise.

  x_{k+1} = M x_k + w_k,   w_k ~ N(0, Q),   x_0 ~ N(0, P)

A frame is a vector of D = H W C numbers that move together: position and speed, say, or
a picture that is rotated. Covariances follow from the dynamics and the best denoiser
is a regression over all T D numbers; `smoother` comes to it frame by frame.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from vdm_jax.diffusion import denoise as d


@dataclasses.dataclass(frozen=True, eq=False)
class LinearDynamics:
  """The distribution of a video of D numbers a frame, D = H W C.

  Attributes:
    transition: M [D, D].
    noise: Q [D, D], covariance of what is new in each frame.
    initial: P [D, D], covariance of frame 0; `stationary` gives the lasting one.
  """

  transition: np.ndarray
  noise: np.ndarray
  initial: np.ndarray

  def covariance(self, num_frames):
    """[T D, T D], frame after frame: Cov(x_i, x_j) = M^(i - j) Cov(x_j) for i >= j."""
    blocks = [[None] * num_frames for _ in range(num_frames)]
    m, now = jnp.asarray(self.transition, float), jnp.asarray(self.initial, float)
    for j in range(num_frames):
      block = now
      for i in range(j, num_frames):
        blocks[i][j], blocks[j][i] = block, block.T
        block = m @ block
      now = m @ now @ m.T + jnp.asarray(self.noise, float)
    return jnp.block(blocks)

  def sample(self, key, shape):
    """Videos [B, T, H, W, C]."""
    size = int(np.prod(shape[2:]))
    k_first, k_rest = jax.random.split(key)
    draw = lambda key, cov: jax.random.multivariate_normal(
      key, jnp.zeros(size), jnp.asarray(cov, float), shape[:1], method="svd"
    )
    m = jnp.asarray(self.transition, float)

    def step(x, key):
      after = x @ m.T + draw(key, self.noise)
      return after, after

    first = draw(k_first, self.initial)
    _, rest = jax.lax.scan(step, first, jax.random.split(k_rest, shape[1] - 1))
    video = jnp.concatenate([first[None], rest])
    return rearrange(video, "t b d -> b t d").reshape(shape)

  def denoiser(self, process):
    """The best denoiser, for any times [B, T], by one regression over all frames."""

    def denoise(x_t, t, cond):
      del cond
      size = self._size(x_t)
      alpha, sigma = (jnp.repeat(c, size, axis=1) for c in process.alpha_sigma(t))
      n = jnp.sqrt(alpha**2 + sigma**2)
      a, s = alpha / n, sigma / n
      seen = a[:, :, None] * self.covariance(t.shape[1])
      both = seen * a[:, None, :] + jnp.eye(seen.shape[-1]) * (s**2)[:, None, :]
      flat = rearrange(x_t, "b t h w c -> b (t h w c) 1") / n[..., None]
      white = jnp.linalg.solve(both, flat)
      out = jnp.einsum("bkj,bkn->bjn", seen, white, precision="highest")
      return d.Denoised(out.reshape(x_t.shape))

    return denoise

  def smoother(self, process):
    """The same denoiser by a Kalman filter and the Rauch-Tung-Striebel way back.

    Its cost grows with T, not with T^3. A frame's noise sigma / alpha is what its
    measurement is worth; https://doi.org/10.2514/3.3166.
    """
    m, q = (jnp.asarray(x, float) for x in (self.transition, self.noise))
    eye = jnp.eye(len(m))

    def one(y, alpha, sigma):  # [T, D], [T], [T]
      def forward(carry, inputs):
        mean, cov = carry  # of this frame, before it is measured
        y, alpha, sigma = inputs
        gain = jnp.linalg.solve(alpha**2 * cov + sigma**2 * eye, alpha * cov).T
        mean = mean + gain @ (y - alpha * mean)
        keep = eye - alpha * gain
        cov = keep @ cov @ keep.T + sigma**2 * gain @ gain.T
        return (m @ mean, m @ cov @ m.T + q), (mean, cov)

      start = jnp.zeros(len(m)), jnp.asarray(self.initial, float)
      _, (means, covs) = jax.lax.scan(forward, start, (y, alpha, sigma))

      def backward(after, inputs):
        mean, cov = inputs
        ahead = m @ cov @ m.T + q
        gain = jnp.linalg.solve(ahead, m @ cov).T
        mean = mean + gain @ (after - m @ mean)
        return mean, mean

      _, rest = jax.lax.scan(backward, means[-1], (means[:-1], covs[:-1]), reverse=True)
      return jnp.concatenate([rest, means[-1:]])

    def denoise(x_t, t, cond):
      del cond
      self._size(x_t)
      y = rearrange(x_t, "b t h w c -> b t (h w c)")
      return d.Denoised(jax.vmap(one)(y, *process.alpha_sigma(t)).reshape(x_t.shape))

    return denoise

  def _size(self, x):
    size = int(np.prod(x.shape[2:]))
    if size != len(self.transition):
      raise ValueError(
        f"x {x.shape} has {size} numbers a frame; these dynamics move "
        f"{len(self.transition)}."
      )
    return size


def stationary(transition, noise):
  """The covariance that M and Q keep: P = M P M' + Q; all eigenvalues of M inside 1."""
  m = np.asarray(transition, np.float64)
  if np.abs(np.linalg.eigvals(m)).max() >= 1.0:
    raise ValueError("The dynamics grow for ever: an eigenvalue of M is not inside 1.")
  size = len(m)
  p = np.linalg.solve(np.eye(size**2) - np.kron(m, m), np.ravel(noise))
  return p.reshape(size, size)


def rotation(angle, damping):
  """M [2, 2]: an oscillation that turns by `angle` a frame and shrinks by `damping`."""
  c, s = np.cos(angle), np.sin(angle)
  return damping * np.array([[c, -s], [s, c]])
