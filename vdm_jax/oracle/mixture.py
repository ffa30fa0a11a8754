"""Mixtures of Gaussian-process videos: several kinds of scene, an exact denoiser.

  E[x | x_t] = sum_k r_k(x_t) E_k[x | x_t],   r_k ~ w_k N(x_t; A mean_k, A C_k A + S)

The vector `label` conditions on a component's index; the index K, one beyond the last,
is the null label. So guidance is measured without a network.
"""

import dataclasses

import jax
import jax.numpy as jnp

from vdm_jax.diffusion import denoise as d


@dataclasses.dataclass(frozen=True)
class GaussianMixture:
  """A mixture of Gaussian-process videos with labels and an exactly known denoiser.

  Attributes:
    components: K GaussianVideos.
    weights: their probabilities. Label k is component k, K is the null label.
  """

  components: tuple
  weights: tuple[float, ...]

  def __post_init__(self):
    if len(self.components) != len(self.weights) or abs(sum(self.weights) - 1) > 1e-6:
      raise ValueError(
        f"{len(self.components)} components and weights {self.weights}; give one "
        "weight for each, that sum to 1."
      )

  def sample(self, key, shape):
    """(videos of `shape` [B, T, H, W, C], labels [B]: indices of their components)."""
    k_label, k_video = jax.random.split(key)
    weights = jnp.log(jnp.asarray(self.weights))
    label = jax.random.categorical(k_label, weights, shape=shape[:1])
    videos = jnp.stack([c.sample(k_video, shape) for c in self.components])
    return videos[label, jnp.arange(shape[0])], label

  def log_density_and_joint(self, process, x_t, t, cond=None):
    """(log p(x_t) [B], log (weight p_k(x_t)) [K, B]) of noisy videos at times t [B, T].

    cond.vectors["label"] [B], if given, leaves one component, the null label all.
    """
    logs = jnp.stack(
      [
        jnp.log(w) + c.log_density(process, x_t, t, cond)
        for c, w in zip(self.components, self.weights, strict=True)
      ]
    )
    if cond is not None and "label" in cond.vectors:
      label = cond.vectors["label"]
      k = jnp.arange(len(self.weights))[:, None]
      logs = jnp.where((label == len(self.weights)) | (label == k), logs, -jnp.inf)
    return jax.nn.logsumexp(logs, axis=0), logs

  def denoiser(self, process):
    """The exact denoiser (x_t, t [B, T], cond) -> Denoised, by label and positions."""
    each = [c.denoiser(process) for c in self.components]

    def denoise(x_t, t, cond):
      total, logs = self.log_density_and_joint(process, x_t, t, cond)
      parts = jnp.stack([denoise(x_t, t, cond).x0 for denoise in each])
      share = jnp.exp(logs - total)  # [K, B]
      return d.Denoised(jnp.einsum("kb,kb...->b...", share, parts))

    return denoise
