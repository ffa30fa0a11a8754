"""The state: one regex decides what is trained; nothing is lost or shared."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vdm_jax import sharding
from vdm_jax.training import state as state_lib

PARAMS = {
  "spatial": {"kernel": jnp.ones((2, 3)), "bias": jnp.zeros(3)},
  "temporal": {"kernel": jnp.full((3, 3), 2.0)},
  "conditioner": {},
}
RULES = (("batch", "data"),)
MESH = sharding.make_mesh({"data": -1})
SPEC = {"x": jax.ShapeDtypeStruct((4, 2), jnp.float32)}


class Task:
  def init(self, key, batch):
    assert batch["x"].shape == (4, 2)
    kernel = jax.random.normal(key, (2, 3))
    return PARAMS | {"spatial": {"kernel": kernel, "bias": jnp.zeros(3)}}


def test_merge_undoes_split():
  trained, frozen = state_lib.split_trainable(PARAMS, "temporal")
  assert list(trained) == ["temporal"]
  merged = state_lib.merge_params(trained, frozen)
  assert jax.tree.structure(merged) == jax.tree.structure(PARAMS)
  jax.tree.map(np.testing.assert_array_equal, merged, PARAMS)


def test_a_pattern_that_matches_nothing_is_refused_with_examples():
  with pytest.raises(ValueError, match="matches none of the 3.*temporal/kernel"):
    state_lib.split_trainable(PARAMS, "tempural")
  with pytest.raises(ValueError, match="no regex"):
    state_lib.split_trainable(PARAMS, "(")


def test_the_average_is_a_copy_in_its_own_memory():
  state, shardings = state_lib.create_state_and_shardings(
    Task(), optax.sgd(0.1), SPEC, jax.random.key(0), MESH, RULES
  )

  def places(tree):
    return {
      shard.data.unsafe_buffer_pointer()
      for x in jax.tree.leaves(tree)
      for shard in x.addressable_shards
    }

  assert not places(state.params) & places(state.ema)
  donated = jax.jit(lambda s: s, donate_argnums=0)(state)
  jax.tree.map(np.testing.assert_array_equal, donated.params, donated.ema)
  assert jax.tree.structure(shardings) == jax.tree.structure(donated)


def test_abstract_is_what_create_makes():
  args = Task(), optax.adam(1e-3), SPEC
  state, shardings = state_lib.create_state_and_shardings(
    *args, jax.random.key(0), MESH, RULES, "spatial"
  )
  with jax.no_execution():  # its mesh may be of chips that are not here
    like = state_lib.abstract_state(*args, MESH, RULES, "spatial")
  assert jax.tree.structure(like) == jax.tree.structure(state)
  same = lambda a, b: (a.shape, a.dtype, a.sharding) == (b.shape, b.dtype, b.sharding)
  assert jax.tree.all(jax.tree.map(same, like, state))
  assert jax.tree.all(jax.tree.map(lambda a, s: a.sharding == s, like, shardings))


def test_init_from_replaces_parameters_and_keeps_dtypes():
  double = lambda p: p | {"temporal": {"kernel": np.full((3, 3), 7.0)}}
  negate = lambda p: p | {"temporal": {"kernel": -p["temporal"]["kernel"]}}
  args = Task(), optax.adam(1.0), SPEC, jax.random.key(0), MESH, RULES
  state, _ = state_lib.create_state_and_shardings(*args, init_from=[double, negate])
  kernel = state.params["temporal"]["kernel"]
  assert kernel.dtype == jnp.float32
  np.testing.assert_array_equal(kernel, -7.0)
  np.testing.assert_array_equal(state.ema["temporal"]["kernel"], -7.0)


def test_init_from_may_compute_on_one_device():
  """As a checkpoint that is read for it, whose checksums are computed there."""

  def load(params):
    last = lambda x: jax.device_put(np.ones(x.shape, x.dtype), jax.devices()[-1])
    return jax.jit(lambda tree: tree)(jax.tree.map(last, params))

  args = Task(), optax.sgd(1.0), SPEC, jax.random.key(0), MESH, RULES
  state, shardings = state_lib.create_state_and_shardings(*args, init_from=load)
  kernel = state.params["temporal"]["kernel"]
  np.testing.assert_array_equal(kernel, 1.0)
  assert kernel.sharding == shardings.params["temporal"]["kernel"]


def test_init_from_with_other_parameters_is_refused_with_every_name():
  def wrong(params):
    return {"spatial": {"kernel": jnp.ones((2, 4)), "extra": jnp.ones(1)}}

  with pytest.raises(ValueError) as error:
    state_lib.create_state_and_shardings(
      Task(), optax.sgd(1.0), SPEC, jax.random.key(0), MESH, RULES, init_from=wrong
    )
  for part in (
    "missing spatial/bias",
    "missing temporal/kernel",
    "unknown spatial/extra",
    "spatial/kernel has shape (2, 4), expected (2, 3)",
  ):
    assert part in str(error.value)
