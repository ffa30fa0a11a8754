"""Noise in what a clip follows from, whose level the network is told.

A clip that follows another starts from what a network made, not from data. Trained on
clean frames alone, the network trusts their errors and adds its own; trained on noisy
ones it learns to overlook both. Of given frames this is "conditional latent
perturbation" (LVDM, https://arxiv.org/abs/2211.13221, section 3.3), of a picture beside
the clip "noise augmentation" (SVD, https://arxiv.org/abs/2311.15127).

  train(process, key, cond) -> cond, of a level drawn for each clip
  sample(process, key, cond) -> (cond, the known frames as they are shown, or None)
"""

import dataclasses

import jax
import jax.numpy as jnp

from vdm_jax.diffusion import process as p


@dataclasses.dataclass(frozen=True)
class GivenFrames:
  """Noise in the known frames; level s is the process' index s, its time s + 1.

  Attributes:
    levels: a training clip's is drawn from 0 .. levels - 1, alike.
    sampling: the one at which given frames are shown when sampling.
    name: of the vector that tells the level, [B] int32.
  """

  levels: int = 250
  sampling: int = 100
  name: str = "augmentation"
  of_mask = True  # there is nothing to noise without given frames

  def __post_init__(self):
    if not 0 <= self.sampling < self.levels:
      raise ValueError(
        f"sampling={self.sampling} is no level of training; there are 0 .. "
        f"{self.levels - 1}."
      )

  def train(self, process, key, cond):
    """`cond` with its known frames noised, each clip's to a level of its own."""
    k_level, k_noise = jax.random.split(key)
    level = jax.random.randint(k_level, cond.known.shape[:1], 0, self.levels)
    known = self._noised(process, k_noise, cond, level)
    return self._tell(cond, level).replace(known=known)

  def sample(self, process, key, cond):
    """(cond that is told the level, the noised known frames)."""
    level = jnp.full(cond.known.shape[:1], self.sampling)
    return self._tell(cond, level), self._noised(process, key, cond, level)

  def _tell(self, cond, level):
    return cond.replace(vectors=cond.vectors | {self.name: level})

  def _noised(self, process, key, cond, level):
    x0 = cond.known
    t = jnp.broadcast_to(level[:, None] + 1.0, x0.shape[:2])
    eps = jax.random.normal(key, x0.shape)
    return p.mix(process.alpha_sigma(t), x0, eps)


@dataclasses.dataclass(frozen=True)
class Picture:
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
  of_mask = False

  def train(self, process, key, cond):
    """`cond` with noise in its picture, each clip's of a deviation of its own."""
    self._check(cond)
    k_level, key = jax.random.split(key)
    normal = jax.random.normal(k_level, cond.vectors[self.name].shape)
    level = jnp.exp(self.mean + self.std * normal)
    cond = cond.replace(vectors=cond.vectors | {self.name: level})
    return self.sample(process, key, cond)[0]

  def sample(self, process, key, cond):
    """(cond with noise in its picture, None)."""
    del process
    self._check(cond)
    x, level = cond.channels[self.signal], cond.vectors[self.name]
    noisy = x + p.expand(level[:, None]) * jax.random.normal(key, x.shape)
    return cond.replace(channels=cond.channels | {self.signal: noisy}), None

  def _check(self, cond):
    if self.signal not in cond.channels or self.name not in cond.vectors:
      channels, vectors = sorted(cond.channels), sorted(cond.vectors)
      raise KeyError(
        f"Noise in a picture needs channels[{self.signal!r}] and "
        f"vectors[{self.name!r}]; the condition has channels {channels} and vectors "
        f"{vectors}. Add conditioner.Image and conditioner.Numbers."
      )
