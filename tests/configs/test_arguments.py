"""Every node of every config names arguments that its target has, set later or not."""

import importlib
import pathlib
import re

import pytest
from ml_collections import ConfigDict

from configs import quickstart
from tests.configs import tiny
from vdm_jax import config as c

EXPERIMENTS = sorted(
  f"experiments.{path.parent.name}.config"
  for path in (pathlib.Path(tiny.ROOT) / "experiments").glob("*/config.py")
)


def trees(name):
  """Yields (variant, config) for every variant that a config file has."""
  get_config = importlib.import_module(name).get_config
  if name == "configs.published":
    yield "", get_config()
    return
  with pytest.raises(ValueError, match="unknown; there are") as refused:
    get_config("no such variant")
  for arg in re.search("there are ([^.]+)", str(refused.value))[1].split(", "):
    yield arg, get_config(arg)


def calls(tree, path):
  """Yields (path, node) for every call or bind in a config."""
  if isinstance(tree, ConfigDict):
    if set(c.VERBS) & set(tree):
      yield path, tree
    for name, part in tree.items():
      yield from calls(part, f"{path}.{name}")
  elif isinstance(tree, (list, tuple)):
    for i, part in enumerate(tree):
      yield from calls(part, f"{path}[{i}]")


def wrong_arguments(cfg):
  """[text]: the calls in a config with an argument that their target lacks."""
  different = {}  # one of each target with the same arguments
  for path, node in calls(cfg, "cfg"):
    target = [str(node[verb]) for verb in c.VERBS if verb in node]
    different.setdefault((*target, *sorted(node)), (path, node))
  found = []
  for path, node in different.values():
    try:
      c.replace(node)
    except TypeError as error:
      found.append(f"{path}: {error}")
  return found


@pytest.mark.parametrize("name", ["configs.published", *tiny.CONFIGS, *EXPERIMENTS])
def test_every_argument_is_one_of_its_target(name):
  for arg, cfg in trees(name):
    assert not wrong_arguments(cfg), f"{name}:{arg}"


def test_an_argument_that_was_set_later_is_seen():
  cfg = quickstart.get_config("tiny")
  cfg.sample.generator.ts.steps = 3
  (wrong,) = wrong_arguments(cfg)
  assert "ts: uniform_grid has no argument 'steps'" in wrong
