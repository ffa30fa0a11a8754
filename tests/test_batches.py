"""Rows in batches: padded with the last one, spread over the mesh, joined again."""

import jax
import numpy as np

from vdm_jax import batches, sharding

RULES = (("batch", "data"),)
MESH = sharding.make_mesh({"data": -1})


def test_a_short_batch_is_padded_with_its_last_row():
  rows = {"a": np.arange(3), "b": np.eye(3)}
  padded, count = batches.pad_rows_and_count(rows, 5)
  assert count == 3 and padded["a"].tolist() == [0, 1, 2, 2, 2]
  assert padded["b"].shape == (5, 3)
  whole, count = batches.pad_rows_and_count(rows, 3)
  assert count == 3 and whole is rows


def test_rows_are_rounded_up_to_what_a_mesh_splits():
  assert MESH.size == 2
  assert [batches.round_up_batch_size(n, MESH, RULES) for n in (1, 2, 3)] == [2, 2, 4]


def test_every_row_is_computed_once_in_batches_of_one_shape():
  shapes, done = [], []

  def apply(batch, key):
    shapes.append(batch["x"].shape)
    assert batch["x"].sharding.num_devices == 2
    noise = jax.vmap(jax.random.uniform)(key)
    return {"double": 2 * batch["x"], "noise": noise}

  key, x = jax.random.key(0), np.arange(7)
  out = batches.map_batches(
    apply, {"x": x}, 3, mesh=MESH, rules=RULES, key=key, update=done.append
  )
  assert shapes == [(4,)] * 3 and done == [3, 6, 7]
  np.testing.assert_array_equal(out["double"], 2 * x)
  alone = lambda n: jax.random.uniform(jax.random.fold_in(key, n))
  np.testing.assert_array_equal(out["noise"], list(map(alone, range(7))))


def test_without_a_mesh_one_device_computes_all():
  out = batches.map_batches(lambda batch: batch["x"] + 1, {"x": np.arange(5)}, 2)
  assert out.tolist() == [1, 2, 3, 4, 5]
