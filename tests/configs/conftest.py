"""Tiny runs that the tests of a file share."""

import contextlib
import itertools

import pytest

from configs import quickstart
from tests.configs import tiny
from tests.support import suite
from tests.support import tiny_digits as begun
from vdm_jax.programs import job

FOLDERS = dict(prepare="data", autoencode="autoencoder", encode="latents")
# With gradients of convolutions that stride, see suite.unoptimized.
STRIDED = ("autoencode", "train_decoder")


@pytest.fixture(scope="module")
def runs(tiny_digits, tmp_path_factory):
  """name -> (config, workdir) of the tiny run, each run once.

  The first stages, as far as an earlier run has them with the same settings, are found
  done: those of quickstart up to its latents, then those of the file's other configs.
  """
  made = {None: (quickstart.get_config("tiny"), tiny_digits)}

  def run(name):
    if name not in made:
      cfg, workdir = tiny.get_config(name, "tiny"), tmp_path_factory.mktemp("run")
      source, stages = max(
        ((folder, _shared(cfg, other)) for other, folder in made.values()),
        key=lambda x: len(x[1]),
      )
      if source == tiny_digits:
        stages = [stage for stage in stages if stage in FOLDERS]
      folders = [FOLDERS.get(stage) or cfg[stage].folder for stage in stages]
      begun.begin(source, workdir, folders)
      for stage in cfg.stages:
        strided = stage in STRIDED
        with contextlib.nullcontext() if strided else suite.unoptimized():
          job.run_stages(cfg, (stage,), workdir)
      made[name] = cfg, workdir
    return made[name]

  return run


def _shared(cfg, other):
  """The first stages, up to `sample`, that are the same in both."""
  same = lambda stage: stage != "sample" and cfg.get(stage) == other.get(stage)
  return list(itertools.takewhile(same, cfg.stages))
