"""Every experiment's config is whole, and what its page shows is there."""

import importlib
import pathlib

import jax
import numpy as np
import pytest

from vdm_jax import config as c

ROOT = pathlib.Path(__file__).parent.parent / "experiments"
CONFIGS = sorted(path.parent.name for path in ROOT.glob("*/config.py"))


def load(name):
  return importlib.import_module(f"experiments.{name}.config")


@pytest.mark.parametrize("name", CONFIGS)
def test_it_says_what_it_is_and_has_a_page(name):
  module = load(name)
  for page in (module.__doc__, (ROOT / name / "README.md").read_text()):
    assert f"--config=experiments/{name}/config.py" in page
  for arg in ("full", "tiny"):
    cfg = module.get_config(arg)
    assert set(cfg.stages) <= set(cfg)
  with pytest.raises(ValueError, match="unknown; there are .*full.* tiny"):
    module.get_config("tinny")


@pytest.mark.parametrize("name", CONFIGS)
def test_its_pictures_are_there(name):
  page = (ROOT / name / "README.md").read_text()
  for part in page.split("](")[1:]:
    link = part.partition(")")[0]
    if "://" not in link:
      assert (ROOT / name / link).exists(), link


def count(task):
  """Parameters of a task's network."""
  batch = {
    "latents": np.zeros((1, 8, 4, 4, 8), np.float32),
    "label": np.zeros(1, np.int32),
  }
  shapes = jax.eval_shape(lambda key: task.init(key, batch), jax.random.key(0))
  return sum(x.size for x in jax.tree.leaves(shapes))


def test_arms_of_moving_digits_are_of_one_size_and_one_length():
  module = load("moving_digits")
  cfg = module.get_config()
  arms = [suffix for suffix, _ in module.ARMS.values()]
  trains = [cfg[f"train_{suffix}"] for suffix in arms]
  sizes = np.array([count(c.build(train.task)) for train in trains])
  assert np.abs(sizes / sizes[0] - 1).max() < 0.005
  assert {train.steps for train in trains} == {module.STEPS}
  assert {t.optimizer.learning_rate.steps for t in trains} == {module.STEPS}
  differ = {str(c.to_dict(t.task)) + str(c.to_dict(t.loader)) for t in trains}
  assert len(differ) == len(arms)  # no two of them are the same run
  assert len({t.folder for t in trains}) == len(arms)
