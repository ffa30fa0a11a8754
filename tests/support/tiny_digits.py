"""The :tiny quickstart up to its latents, which other runs begin with."""

import shutil

from configs import quickstart
from vdm_jax.programs import job

STAGES = ("prepare", "autoencode", "encode")
FOLDERS = ("data", "autoencoder", "latents")


def make(workdir):
  """Writes FOLDERS of configs/quickstart.py:tiny under `workdir`."""
  job.run_stages(quickstart.get_config("tiny"), STAGES, workdir)


def begin(source, workdir, folders=FOLDERS):
  """A run's folder that has these folders of `source` already: its workdir, a path.

  The stages that wrote them find them done, if their settings are those of quickstart.
  """
  for name in folders:
    shutil.copytree(source / name, workdir / name)
  return workdir
