"""Noise in what a clip follows from, whose level the network is told.

A clip that follows another starts from what a network made, not from data. Trained on
clean frames alone, the network trusts their errors and adds its own; trained on noisy
ones it learns to overlook both. Of given frames this is "conditional latent
perturbation" (LVDM, https://arxiv.org/abs/2211.13221, section 3.3), of a picture beside
the clip "noise augmentation" (SVD, https://arxiv.org/abs/2311.15127).

  train(process, key, cond) -> cond, of a level drawn for each clip
  sample(process, key, cond) -> cond, of the level that samples are made with

and of given frames also noisy_known(process, cond) -> the known frames, noised by
`cond.known_noise`, which windows of a long video cut and keep through all steps.
"""

import dataclasses

import jax
import jax.numpy as jnp

from vdm_jax.diffusion import process as p


@dataclasses.dataclass(frozen=True)
class KnownFrameNoise:
  """Noise in the known frames; level s is the process' index s, its time s + 1.

  Attributes:
    num_levels: a training clip's level is uniform in 0 .. num_levels - 1.
    sampling_level: the level of the known frames when sampling.
    name: of the vector that tells the level, [B] int32.
  """

  num_levels: int = 250
  sampling_level: int = 100
  name: str = "augmentation"
  for_known_frames = True  # there is nothing to noise without given frames

  def __post_init__(self):
    if not 0 <= self.sampling_level < self.num_levels:
      raise ValueError(
        f"sampling_level={self.sampling_level} is no level of training; there are 0 .. "
        f"{self.num_levels - 1}."
      )

  def train(self, process, key, cond):
    """`cond` with its known frames noised, each clip's to a level of its own."""
    k_level, k_noise = jax.random.split(key)
    level = jax.random.randint(k_level, cond.known.shape[:1], 0, self.num_levels)
    cond = self._tell(k_noise, cond, level)
    return cond.replace(known=self.noisy_known(process, cond), known_noise=None)

  def sample(self, process, key, cond):
    """`cond` that is told the level, and has the noise of its known frames."""
    del process
    return self._tell(key, cond, jnp.full(cond.known.shape[:1], self.sampling_level))

  def noisy_known(self, process, cond):
    """[B, T, H, W, C] the known frames with noise of the level that `cond` tells."""
    t = jnp.broadcast_to(cond.vectors[self.name][:, None] + 1.0, cond.known.shape[:2])
    return p.mix(process.alpha_sigma(t), cond.known, cond.known_noise)

  def _tell(self, key, cond, level):
    noise = jax.random.normal(key, cond.known.shape)
    return cond.replace(vectors=cond.vectors | {self.name: level}, known_noise=noise)


@dataclasses.dataclass(frozen=True)
class ImageAugmentation:
  """Noise in the channels of a signal, of deviation exp(mean + std n), n normal.

  When sampling, of the deviation that `cond` tells. SVD adds it to the pixels before
  they are encoded, here it is added to latents.

  Attributes:
    signal: whose channels.
    name: of the vector that tells the deviation, [B].
  """

  mean: float = -3.0
  std: float = 0.5
  signal: str = "image"
  name: str = "augmentation"
  for_known_frames = False

  def train(self, process, key, cond):
    """`cond` with noise in its picture, each clip's of a deviation of its own."""
    self._check(cond)
    k_level, key = jax.random.split(key)
    normal = jax.random.normal(k_level, cond.vectors[self.name].shape)
    level = jnp.exp(self.mean + self.std * normal)
    cond = cond.replace(vectors=cond.vectors | {self.name: level})
    return self.sample(process, key, cond)

  def sample(self, process, key, cond):
    """`cond` with noise in its picture."""
    del process
    self._check(cond)
    x, level = cond.channels[self.signal], cond.vectors[self.name]
    noisy = x + p.expand(level[:, None]) * jax.random.normal(key, x.shape)
    return cond.replace(channels=cond.channels | {self.signal: noisy})

  def _check(self, cond):
    if self.signal not in cond.channels or self.name not in cond.vectors:
      channels, vectors = sorted(cond.channels), sorted(cond.vectors)
      raise KeyError(
        f"Noise in a picture needs channels[{self.signal!r}] and "
        f"vectors[{self.name!r}]; the condition has channels {channels} and vectors "
        f"{vectors}. Add conditioner.Image and conditioner.Numbers."
      )
