"""Samples a U-Net's videos, and takes its gradient, on meshes and on one device.

python -m tests.parallel.unet_cases
"""

import functools
import json

import jax
import numpy as np

from tests.parallel import meshes
from vdm_jax import sharding
from vdm_jax.conditioners import conditioner
from vdm_jax.diffusion import guidance, process, times
from vdm_jax.diffusion.samplers import ddim
from vdm_jax.models.unet import architectures, unet3d
from vdm_jax.tasks import latent_diffusion

MESHES = (dict(data=2, fsdp=4), dict(seq=4, tensor=2), dict(fsdp=2, seq=2, tensor=2))
NUMBERS = ("fps", "motion", "augmentation")
NETWORK = unet3d.UNet3D(
  architectures.svd(
    head_dim=8,
    joint_frequencies=8,
    out_channels=2,
    channels=(32, 64),
    layers=1,
    attention=(True, False),
    groups=8,
  )
)
TASK = latent_diffusion.LatentDiffusion(
  network=NETWORK,
  process=process.DDPM(),
  prediction="v",
  conditioner=conditioner.All(
    (conditioner.LabelTokens(3), conditioner.Numbers(NUMBERS))
  ),
)
GUIDE = functools.partial(guidance.guide, drop=("text",), scales=(3.0,))


def batch():
  rng = np.random.default_rng(0)
  latents = rng.standard_normal((8, 4, 8, 8, 2)).astype(np.float32)
  numbers = {name: np.linspace(1, 20, 8, dtype=np.float32) for name in NUMBERS}
  return {"latents": latents, "label": np.arange(8) % 3, **numbers}


def work(params, batch, key):
  """(latents by guided DDIM, gradient of the loss)."""
  signals = {k: x for k, x in batch.items() if k != "latents"}
  latents = TASK.sample(
    params,
    signals,
    batch["latents"].shape,
    key,
    sampler=ddim.ddim,
    ts=times.uniform_grid(TASK.process, num_steps=2),
    wrappers=(GUIDE,),
  )
  return latents, jax.grad(lambda p: TASK.loss(p, batch, key)[0])(params)


def run(axes, seed=1):
  mesh = meshes.mesh(axes)
  params = meshes.placed(lambda: TASK.init(jax.random.key(0), batch()), mesh)
  with sharding.use_mesh(mesh, meshes.RULES):
    rows = sharding.put_batch(batch(), mesh, meshes.RULES)
    made = jax.jit(work)(params, rows, jax.random.key(seed))
  return jax.device_get(made)


def differences(found, expected):
  """[of the latents, of the whole gradient over its length]."""
  flat = lambda tree: np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])
  ours, theirs = flat(found[1]), flat(expected[1])
  gradient = np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)
  return [meshes.difference(found[0], expected[0]), float(gradient)]


if __name__ == "__main__":
  with jax.default_matmul_precision("highest"):
    one = run(meshes.ONE)
    found = {"another key": differences(run(meshes.ONE, seed=2), one)}
    for axes in MESHES:
      found[meshes.name(axes)] = differences(run(axes), one)
  print(json.dumps(found))
