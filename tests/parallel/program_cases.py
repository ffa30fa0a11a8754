"""Runs programs on a mesh of fake devices, in one process or in several.

python -m tests.parallel.program_cases <workdir> '{"data": 8}' [<coordinator> 2 <id>]
"""

import functools
import json
import pathlib
import sys

import numpy as np

from tests.parallel import meshes
from vdm_jax import distributed
from vdm_jax.autoencoders import kl_image
from vdm_jax.conditioners import conditioner
from vdm_jax.data import sources
from vdm_jax.diffusion import process, times
from vdm_jax.diffusion.samplers import ddim
from vdm_jax.metrics import score
from vdm_jax.models.transformer import video_dit
from vdm_jax.pipelines import text_encoder
from vdm_jax.programs import embed, encode, evaluate, process_shards, sample
from vdm_jax.programs import job as job_lib
from vdm_jax.tasks import latent_diffusion
from vdm_jax.tasks.generator import Generator

CLIPS, BATCH = 11, 3  # neither fits the other, nor any mesh
SHAPE = (3, 4, 4, 2)  # of latents, without the batch
LENGTH = 10
TEXTS = ("a seven", "the digit 3 flies upwards", "an eight")
AUTOENCODER = kl_image.KLImage(
  channels=(8, 8), layers_per_block=1, latent_channels=2, groups=2
)
TASK = latent_diffusion.LatentDiffusion(
  network=video_dit.VideoDiT(
    out_channels=2, patch=2, width=16, depth=2, num_heads=2, num_classes=3
  ),
  process=process.DDPM(),
  prediction="eps",
  conditioner=conditioner.Labels(3),
)


def clips():
  rng = np.random.default_rng(0)
  return sources.ArraySource(
    {
      "video": rng.integers(0, 256, (CLIPS, SHAPE[0], 8, 8, 3)).astype(np.uint8),
      "label": np.arange(CLIPS, dtype=np.int32) % 3,
    }
  )


def run(workdir, axes):
  """What of the results is no file: {name: value}."""
  mesh = meshes.mesh(axes)
  stage = lambda name: job_lib.Job(workdir, name, 0, mesh, meshes.RULES, {})
  source, one = clips(), {"latents": np.zeros((1, *SHAPE)), "label": np.zeros(1, int)}
  decoder = meshes.parameters(AUTOENCODER.init, np.zeros((1, 1, 8, 8, 3), np.float32))
  network = meshes.parameters(TASK.init, one)
  encode.run(
    stage("encode"),
    source=source,
    autoencoder=AUTOENCODER,
    weights=decoder,
    batch_size=BATCH,
  )
  sample.run(
    stage("sample"),
    generator=Generator(
      task=TASK,
      weights=network,
      autoencoder=AUTOENCODER,
      autoencoder_weights=decoder,
      shape=SHAPE,
      sampler=functools.partial(ddim.ddim, eta=1.0),
      ts=functools.partial(times.uniform_grid, num_steps=3),
    ),
    signals=lambda: {"label": np.arange(CLIPS, dtype=np.int32) % 3},
    batch_size=BATCH,
  )
  distributed.barrier("sampled")  # as between the stages of a config
  evaluate.run(
    stage("evaluate"),
    real=source,
    train=source,
    metrics=[reconstruction],
    autoencoder=AUTOENCODER,
    autoencoder_weights=decoder,
    batch_size=BATCH,
  )
  encoder = text_encoder.TextEncoder(
    text_encoder.packaged_folder(), LENGTH, batch_size=2
  )
  embed.run(stage("embed"), texts=lambda: list(TEXTS), encoder=encoder)
  here = process_shards.local_job(stage("encode"))
  rows = here.put_batch({"row": np.arange(here.mesh.size)})["row"]
  return {"rows": [shard.data.tolist() for shard in rows.addressable_shards]}


def reconstruction(evidence):
  """The mean of what the autoencoder makes of each real clip."""
  each = evidence.reconstructed.mean(axis=(1, 2, 3, 4))
  said = score.Protocol(metric="mean", frames=SHAPE[0], count=1)
  return [
    score.Row(name=f"clip {i}", samples=score.Score(float(x), said))
    for i, x in enumerate(each)
  ]


if __name__ == "__main__":
  if sys.argv[3:]:
    coordinator, count, number = sys.argv[3:]
    distributed.initialize(coordinator, int(count), int(number))
  with distributed.abort_all_on_error():
    found = run(pathlib.Path(sys.argv[1]), json.loads(sys.argv[2]))
  print(json.dumps(found))
