"""Noise in the frames or the image that a clip is conditioned on, with its level.

A clip that continues another one starts from generated frames, not from data. A network
that is trained on clean frames trusts their errors; trained on noisy ones, and given
their noise level as a condition, it does not.

  perturb_training_cond(process, key, cond) -> cond, noise of a level drawn for each
  perturb_sampling_cond(process, key, cond) -> cond, with noise of the level of sampling

and for known frames also noisy_known(process, cond), with the noise `cond.known_noise`:
windows of a long video cut it, and it is the same in all steps.
"""

import dataclasses

import jax
import jax.numpy as jnp

from vdm_jax import keys
from vdm_jax.diffusion import process as p


@dataclasses.dataclass(frozen=True)
class KnownFrameNoise:
  """Adds noise to `cond.known`, the frames that a clip is conditioned on, by level.

  LVDM's conditional latent perturbation, https://arxiv.org/abs/2211.13221. Level s is
  the process' index s, its time s + 1; the network gets it as a vector of `cond`.

  Attributes:
    num_levels: a training clip's level is uniform in 0 .. num_levels - 1.
    sampling_level: the level of the known frames when sampling.
    name: of the vector of `cond` that holds the level, [B] int32.
  """

  num_levels: int = 250
  sampling_level: int = 100
  name: str = "augmentation"
  for_known_frames = True  # needs a mask of known frames

  def __post_init__(self):
    if not 0 <= self.sampling_level < self.num_levels:
      raise ValueError(
        f"sampling_level={self.sampling_level} is no level of training, which are 0 .. "
        f"{self.num_levels - 1}."
      )

  def perturb_training_cond(self, process, key, cond):
    """`cond` with noisy known frames and their random levels, the vector `name` [B]."""
    k_level, k_noise = jax.random.split(key)
    level = jax.random.randint(k_level, cond.known.shape[:1], 0, self.num_levels)
    cond = self._with_level(k_noise, cond, level)
    return cond.replace(known=self.noisy_known(process, cond), known_noise=None)

  def perturb_sampling_cond(self, process, key, cond):
    """`cond` with noise for `noisy_known`, and the level `sampling_level` for all."""
    del process
    return self._with_level(
      key, cond, jnp.full(cond.known.shape[:1], self.sampling_level)
    )

  def noisy_known(self, process, cond):
    """Known frames [B, T, H, W, C] with `cond.known_noise` of the level in `cond`."""
    t = jnp.broadcast_to(cond.vectors[self.name][:, None] + 1.0, cond.known.shape[:2])
    return p.mix(process.alpha_sigma(t), cond.known, cond.known_noise)

  def _with_level(self, key, cond, level):
    noise = keys.normal(key, cond.known.shape)
    return cond.replace(vectors=cond.vectors | {self.name: level}, known_noise=noise)


@dataclasses.dataclass(frozen=True)
class ImageNoiseAugmentation:
  """Adds noise to the channels of a signal, such as an image's latents.

  SVD's noise augmentation, https://arxiv.org/abs/2311.15127, there of pixels. Its
  deviation is exp(mean + std n), n ~ N(0, 1), in training, else that in `cond.vectors`.

  Attributes:
    mean, std: of the logarithm of the deviation.
    signal: name of the entry of `cond.channels`.
    name: of the vector of `cond` that holds the deviation, [B].
  """

  mean: float = -3.0
  std: float = 0.5
  signal: str = "image"
  name: str = "augmentation"
  for_known_frames = False

  def perturb_training_cond(self, process, key, cond):
    """`cond` with noise in the signal, its random deviations the vector `name` [B]."""
    self._check(cond)
    k_level, key = jax.random.split(key)
    normal = jax.random.normal(k_level, cond.vectors[self.name].shape)
    level = jnp.exp(self.mean + self.std * normal)
    cond = cond.replace(vectors=cond.vectors | {self.name: level})
    return self.perturb_sampling_cond(process, key, cond)

  def perturb_sampling_cond(self, process, key, cond):
    """`cond` with noise in the signal, of the deviation [B] in the vector `name`."""
    del process
    self._check(cond)
    x, level = cond.channels[self.signal], cond.vectors[self.name]
    noisy = x + p.expand(level[:, None]) * keys.normal(key, x.shape)
    return cond.replace(channels=cond.channels | {self.signal: noisy})

  def _check(self, cond):
    if self.signal not in cond.channels or self.name not in cond.vectors:
      channels, vectors = sorted(cond.channels), sorted(cond.vectors)
      raise KeyError(
        f"Noise in an image needs channels[{self.signal!r}] and "
        f"vectors[{self.name!r}]; the condition has channels {channels} and vectors "
        f"{vectors}. Add conditioner.Image and conditioner.Numbers."
      )
