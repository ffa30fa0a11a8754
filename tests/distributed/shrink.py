"""Trains on 8 devices, goes on on 4, on 2 and on 1: each resumes the one before.

Argument: the folder of the run.
"""

import pathlib
import sys

import jax

from tests.distributed import config as config_file
from vdm_jax import config, sharding
from vdm_jax.programs import job

MESHES = {8: dict(data=2, fsdp=2, seq=2), 4: dict(fsdp=4), 2: dict(seq=2), 1: {}}
ONE = dict(data=1, fsdp=1, seq=1, tensor=1)
STEPS = 3  # on each


def main(workdir):
  cfg = config_file.get_config()
  for i, (count, axes) in enumerate(MESHES.items()):
    cfg.train.steps = STEPS * (i + 1)
    mesh = sharding.make_mesh(ONE | axes, jax.devices()[:count])
    program = config.build(cfg.train)
    program(job.Job(pathlib.Path(workdir), "train", cfg.seed, mesh, cfg.rules, {}))


if __name__ == "__main__":
  main(sys.argv[1])
