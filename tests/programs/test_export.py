"""What was trained leaves the workdir as one small file."""

import jax
import numpy as np
import pytest

from vdm_jax import checkpoint, sharding
from vdm_jax.pretrained.formats import native
from vdm_jax.programs import export, job


def save(folder, state):
  saver = checkpoint.Checkpointer(folder / "checkpoints")
  saver.save(1, state, key=jax.random.key(0), loader_state={})
  saver.close()


@pytest.fixture
def trained(tmp_path):
  mesh = sharding.make_mesh(dict(data=-1))
  for folder, value in (("one", 1.0), ("two", 2.0)):
    tree = {"a": {"b": np.full(4, value, np.float32)}, "c": np.zeros(2, np.float32)}
    save(tmp_path / folder, {"params": tree, "ema": tree})
  return job.Job(tmp_path, "export", 0, mesh, (), {})


def test_parts_of_two_stages_are_in_one_file(trained):
  export.run(trained, parts={"x": ("one", "ema"), "y": ("two", "ema/a")}, out="w.st")
  path = trained.workdir / "w.st"
  assert native.load(path, "x")["a"]["b"].tolist() == [1.0] * 4
  assert native.load(path, "y")["b"].tolist() == [2.0] * 4


def test_a_file_that_grew_too_large_is_refused(trained):
  with pytest.raises(ValueError, match="more than max_bytes=50"):
    export.run(trained, parts={"x": ("one", "ema")}, max_bytes=50)


def test_weights_may_be_the_arrays_themselves(trained):
  tree = {"a": np.ones(2, np.float32)}
  assert trained.weights(tree, "ema/autoencoder")["a"].tolist() == [1.0, 1.0]
  with pytest.raises(FileNotFoundError, match="Train first"):
    trained.weights("three")


def test_weights_of_several_stages_come_as_one_tree(trained):
  found = trained.weights({"outer": "one", "inner": {"a": np.zeros(2)}}, "ema")
  assert found["outer"]["a"]["b"].tolist() == [1.0] * 4
  assert found["inner"]["a"].tolist() == [0.0, 0.0]
  with pytest.raises(FileNotFoundError, match="Train first"):
    trained.weights({"outer": "one", "inner": "three"})


def test_what_a_training_froze_is_part_of_its_weights(trained):
  one = lambda value: {"w": np.full(2, value, np.float32)}
  state = {
    "ema": {"net": {"decoder": one(1.0)}},
    "params": {"net": {"decoder": one(2.0)}},
    "frozen": {"net": {"encoder": one(3.0)}, "judge": one(4.0)},
  }
  save(trained.workdir / "half", state)
  plain = lambda tree: jax.tree.map(lambda x: float(x[0]), tree)
  want = {"decoder": {"w": 1.0}, "encoder": {"w": 3.0}}
  assert plain(trained.weights("half", "ema/net")) == want
  assert plain(trained.weights("half"))["judge"] == {"w": 4.0}
  assert plain(trained.weights("half", "ema/judge")) == {"w": 4.0}
  with pytest.raises(KeyError, match="no part 'ema/nothing'"):
    trained.weights("half", "ema/nothing")
