"""Tiny runs that the tests of a file share."""

import pytest

from tests.configs import tiny
from vdm_jax.programs import job


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
  """name -> (config, workdir) of the tiny run, each run once."""
  made = {}

  def run(name):
    if name not in made:
      cfg, workdir = tiny.get_config(name, "tiny"), tmp_path_factory.mktemp("run")
      job.run(cfg, cfg.stages, workdir)
      made[name] = cfg, workdir
    return made[name]

  return run
