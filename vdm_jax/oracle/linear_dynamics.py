"""Linear-Gaussian dynamics: the next frame is a linear map of this one, plus noise.

  x_{k+1} = M x_k + w_k,   w_k ~ N(0, Q),   x_0 ~ N(0, P)

A frame is a vector of D = H W C numbers: position and speed, say, or an image that is
rotated. Covariances follow from the dynamics. Denoisers use `cond.positions`, whole
numbers: frames that are k apart are related by M^k.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from vdm_jax.diffusion import denoise as d

NUM_BITS = 16  # positions are below 2^16


@dataclasses.dataclass(frozen=True, eq=False)
class LinearDynamics:
  """Videos of linear-Gaussian dynamics x_{k+1} = M x_k + w_k, of frames of D numbers.

  D = H W C. The best denoiser is known exactly, as a regression and a Kalman smoother.

  Attributes:
    transition: M [D, D].
    noise: Q [D, D], covariance of the noise w_k of each step.
    initial: P [D, D], covariance of frame 0, such as `stationary_covariance(M, Q)`.
  """

  transition: np.ndarray
  noise: np.ndarray
  initial: np.ndarray

  def covariance(self, positions):
    """Covariance [..., T D, T D] of frames at `positions` [..., T], or a number T.

    Cov(x_i, x_j) = M^(i - j) Cov(x_j) for i >= j; a number T is 0 .. T - 1.
    """
    if isinstance(positions, int):
      positions = jnp.arange(positions)
    i, j = positions[..., :, None], positions[..., None, :]
    power, _ = self._ahead(jnp.abs(i - j))
    earlier = self._marginal(jnp.minimum(i, j))
    block = jnp.matmul(power, earlier, precision="highest")
    block = jnp.where((i >= j)[..., None, None], block, jnp.swapaxes(block, -1, -2))
    return rearrange(block, "... i j d e -> ... (i d) (j e)")

  def sample(self, key, shape):
    """Videos of `shape` [B, T, H, W, C], H W C = D."""
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
    """The exact denoiser (x_t, t [B, T], cond) -> Denoised, from all frames at once."""

    def denoise(x_t, t, cond):
      size = self._size(x_t)
      alpha, sigma = (jnp.repeat(c, size, axis=1) for c in process.alpha_sigma(t))
      n = jnp.sqrt(alpha**2 + sigma**2)
      a, s = alpha / n, sigma / n
      seen = a[:, :, None] * self.covariance(_positions(t, cond))
      both = seen * a[:, None, :] + jnp.eye(seen.shape[-1]) * (s**2)[:, None, :]
      flat = rearrange(x_t, "b t h w c -> b (t h w c) 1") / n[..., None]
      white = jnp.linalg.solve(both, flat)
      out = jnp.einsum("bkj,bkn->bjn", seen, white, precision="highest")
      return d.Denoised(out.reshape(x_t.shape))

    return denoise

  def kalman_denoiser(self, process):
    """The exact denoiser (x_t, t [B, T], cond) -> Denoised, by a Kalman smoother.

    A filter and the backward pass of Rauch, Tung and Striebel, of cost T, not T^3;
    positions must rise. https://doi.org/10.2514/3.3166.
    """
    eye = jnp.eye(len(self.transition))

    def one(y, alpha, sigma, positions):  # [T, D], [T], [T], [T]
      m, q = self._ahead(jnp.diff(positions))  # from each frame to the next

      def measure(mean, cov, y, alpha, sigma):
        gain = jnp.linalg.solve(alpha**2 * cov + sigma**2 * eye, alpha * cov).T
        cov = _carry(eye - alpha * gain, cov) + sigma**2 * gain @ gain.T
        return mean + gain @ (y - alpha * mean), cov

      def forward(carry, inputs):
        mean, cov = carry
        m, q, *seen = inputs
        after = measure(m @ mean, _carry(m, cov) + q, *seen)
        return after, after

      start = jnp.zeros(len(eye)), self._marginal(positions[0])
      first = measure(*start, y[0], alpha[0], sigma[0])
      last, rest = jax.lax.scan(forward, first, (m, q, y[1:], alpha[1:], sigma[1:]))
      before = jax.tree.map(
        lambda x, y: jnp.concatenate([x[None], y[:-1]]), first, rest
      )

      def backward(after, inputs):
        m, q, mean, cov = inputs
        gain = jnp.linalg.solve(_carry(m, cov) + q, m @ cov).T
        mean = mean + gain @ (after - m @ mean)
        return mean, mean

      _, means = jax.lax.scan(backward, last[0], (m, q, *before), reverse=True)
      return jnp.concatenate([means, last[0][None]])

    def denoise(x_t, t, cond):
      self._size(x_t)
      y = rearrange(x_t, "b t h w c -> b t (h w c)")
      positions = jnp.broadcast_to(_positions(t, cond), t.shape)
      out = jax.vmap(one)(y, *process.alpha_sigma(t), positions)
      return d.Denoised(out.reshape(x_t.shape))

    return denoise

  def _ahead(self, k):
    """(M^k, noise covariance of k steps), [..., D, D] each, for whole k [...] >= 0.

    By squaring, so that k may be traced.
    """
    k = jnp.asarray(k, int)
    m, q = (jnp.asarray(x, float) for x in (self.transition, self.noise))
    eye = jnp.broadcast_to(jnp.eye(len(m)), (*k.shape, *m.shape))

    def double(bit, state):
      power, added, m, q = state  # m and q of 2^bit frames
      on = (k >> bit & 1 == 1)[..., None, None]
      added = jnp.where(on, _carry(m, added) + q, added)
      power = jnp.where(on, jnp.matmul(m, power, precision="highest"), power)
      return power, added, jnp.matmul(m, m, precision="highest"), _carry(m, q) + q

    state = eye, jnp.zeros_like(eye), m, q
    return jax.lax.fori_loop(0, NUM_BITS, double, state)[:2]

  def _marginal(self, k):
    """Cov(x_k) [..., D, D] for k [...]."""
    power, added = self._ahead(k)
    return _carry(power, jnp.asarray(self.initial, float)) + added

  def _size(self, x):
    size = int(np.prod(x.shape[2:]))
    if size != len(self.transition):
      raise ValueError(
        f"x {x.shape} has {size} numbers a frame; these dynamics move "
        f"{len(self.transition)}."
      )
    return size


def _carry(m, cov):
  """M cov M', [..., D, D]."""
  half = jnp.matmul(m, cov, precision="highest")
  return jnp.matmul(half, jnp.swapaxes(m, -1, -2), precision="highest")


def _positions(t, cond):
  """[B or 1, T]."""
  if cond is None or cond.positions is None:
    return jnp.arange(t.shape[1])[None]
  return cond.positions


def stationary_covariance(transition, noise):
  """The stationary covariance P [D, D] of x' = M x + w, w ~ N(0, Q): P = M P M' + Q.

  M = transition and Q = noise are [D, D]. A ValueError is raised if an eigenvalue of M
  is not inside the unit circle.
  """
  m = np.asarray(transition, np.float64)
  if np.abs(np.linalg.eigvals(m)).max() >= 1.0:
    raise ValueError(
      "The dynamics are not stable: an eigenvalue of M is not inside the unit circle."
    )
  size = len(m)
  p = np.linalg.solve(np.eye(size**2) - np.kron(m, m), np.ravel(noise))
  return p.reshape(size, size)


def damped_rotation(angle, damping):
  """A transition matrix [2, 2]: a rotation by `angle` radians, times `damping`."""
  c, s = np.cos(angle), np.sin(angle)
  return damping * np.array([[c, -s], [s, c]])
