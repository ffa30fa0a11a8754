"""Samples videos on meshes of 8 devices and on one; prints how far they differ.

python -m tests.parallel.sample_cases
"""

import functools
import json

import jax
import numpy as np

from tests.parallel import meshes, train_cases
from vdm_jax import sharding
from vdm_jax.autoencoders import kl_image
from vdm_jax.diffusion import guidance, times
from vdm_jax.diffusion.samplers import ancestral, ddim

NUM_STEPS = 3
FIELDS = dict(num_classes=3, text="cross")
MESHES = (
  dict(data=8),
  dict(fsdp=8),
  dict(seq=8),
  dict(tensor=8),
  dict(data=2, seq=4),
  dict(fsdp=2, seq=2, tensor=2),
)
DECODER = kl_image.KLImage(
  channels=(8, 8), layers_per_block=1, latent_channels=2, groups=2
)


def draw(task, params, decoder, batch, key):
  """(latents by ddim, their video, latents by ancestral), all guided."""
  shape = batch.pop("latents").shape
  signals = ("label", "text") if task.network.text != "none" else ("label",)
  guide = functools.partial(guidance.guide, drop=(signals,), scales=(3.0,))
  grid = times.uniform_grid(task.process, num_steps=NUM_STEPS)
  of = lambda sampler: task.sample(
    params, batch, shape, key, sampler=sampler, ts=grid, wrappers=(guide,)
  )
  latents = of(ddim.ddim)
  noisy = of(functools.partial(ancestral.ancestral, fraction=1.0))
  return latents, DECODER.decode(decoder, latents), noisy


def sample(axes, seed=1, case=train_cases.Case(), fields=FIELDS):  # noqa: B008
  task, mesh, batch = train_cases.task(case, **fields), meshes.mesh(axes), case.batch()
  params = meshes.placed(lambda: task.init(jax.random.key(0), batch), mesh)
  frame = np.zeros((1, 1, 4, 4, 3), np.float32)
  decoder = meshes.parameters(DECODER.init, frame)
  decoder = jax.device_put(decoder, sharding.replicated(mesh))
  with sharding.use_mesh(mesh, meshes.RULES):
    rows = sharding.put_batch(batch, mesh, meshes.RULES)
    made = jax.jit(functools.partial(draw, task))(
      params, decoder, rows, jax.random.key(seed)
    )
  return jax.device_get(made)


if __name__ == "__main__":
  one = sample(meshes.ONE)
  ways = {"another key": sample(meshes.ONE, seed=2)}
  ways |= {meshes.name(axes): sample(axes) for axes in MESHES}
  differences = lambda made: [*map(meshes.difference, made, one)]
  print(json.dumps({name: differences(made) for name, made in ways.items()}))
