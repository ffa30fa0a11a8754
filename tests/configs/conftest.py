"""Tiny runs that the tests of a file share."""

import itertools

import pytest

from configs import quickstart
from tests.configs import tiny
from tests.support import tiny_digits as begun
from vdm_jax.programs import job

FOLDERS = dict(prepare="data", autoencode="autoencoder", encode="latents")


@pytest.fixture(scope="module")
def runs(tiny_digits, tmp_path_factory):
  """name -> (config, workdir) of the tiny run, each run once.

  The stages that it begins with and that are quickstart's are found done.
  """
  made, same = {}, quickstart.get_config("tiny")

  def run(name):
    if name not in made:
      cfg, workdir = tiny.get_config(name, "tiny"), tmp_path_factory.mktemp("run")
      shared = itertools.takewhile(
        lambda stage: stage in FOLDERS and cfg.get(stage) == same[stage], FOLDERS
      )
      begun.begin(tiny_digits, workdir, [FOLDERS[stage] for stage in shared])
      job.run_stages(cfg, cfg.stages, workdir)
      made[name] = cfg, workdir
    return made[name]

  return run
