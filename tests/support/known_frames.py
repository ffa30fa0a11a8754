"""Samples of LVDM's task, some of whose frames are given, with any network."""

import jax
import numpy as np

from vdm_jax.conditioners import conditioner
from vdm_jax.diffusion import process, times
from vdm_jax.diffusion.perturbation import KnownFrameNoise
from vdm_jax.diffusion.samplers import ddim
from vdm_jax.tasks import latent_diffusion

LVDM = process.DDPM("scaled_linear", beta_ends=(0.0015, 0.0155))


def sample(network, known, mask, *, num_steps=4, sampler=ddim.ddim, wrappers=()):
  """A sample of the shape of `known`, in which the frames of `mask` [T] are given.

  Args:
    network: an object with `apply` like that of a linen module; it has no parameters.
  """
  task = latent_diffusion.LatentDiffusion(
    network=network,
    process=LVDM,
    prediction="eps",
    conditioner=conditioner.Unconditional(),
    mask_rates={"first": 1.0},
    perturbation=KnownFrameNoise(),
  )
  return task.sample(
    {},
    {"latents": np.zeros(known.shape, np.float32)},
    known.shape,
    jax.random.key(2),
    sampler=sampler,
    ts=times.leading_grid(LVDM, num_steps=num_steps, offset=1),
    wrappers=wrappers,
    known=known,
    mask=mask,
  )
