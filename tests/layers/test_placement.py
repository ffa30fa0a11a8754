"""Activations are split over a mesh as the rules say, evenly or not at all."""

import jax
import jax.numpy as jnp
import numpy as np

from vdm_jax import sharding
from vdm_jax.layers import placement

RULES = (("batch", ("data",)), ("frames", "seq"), ("height", ("data", "seq")))
FRAMES = ("batch", "frames")


def mesh(**axes):
  return sharding.make_mesh({"data": 1, "seq": 1} | axes)


def test_an_axis_takes_the_mesh_axes_that_are_left_and_divide_it():
  for axes, shape, names, want in (
    (dict(data=2), (4, 3), ("batch", None), [("data",), ()]),
    (dict(data=2), (3, 4), ("batch", None), [(), ()]),  # 3 rows: whole
    (dict(seq=2), (3, 4), ("batch", "frames"), [("data",), ("seq",)]),
    (dict(data=2), (4, 8), (FRAMES, "height"), [("data", "seq"), ()]),
    (dict(data=2), (1, 8), (FRAMES, "height"), [("seq",), ("data",)]),
    (dict(data=2), (4, 4), ("nobody", None), [(), ()]),
  ):
    with sharding.use_mesh(mesh(**axes), RULES):
      assert placement.mesh_axes(shape, names) == want


def test_no_device_gets_less_than_the_least():
  with sharding.use_mesh(mesh(data=2), RULES):
    found = lambda rows: placement.mesh_axes((1, rows), (FRAMES, "height"), (1, 4))[1]
    assert found(8) == ("data",) and found(6) == ()
    assert placement.num_shards(4, FRAMES) == 2 and placement.num_shards(3, FRAMES) == 1


def test_an_array_lies_as_it_was_placed_and_keeps_its_values():
  x = jnp.arange(24.0).reshape(4, 6)
  with sharding.use_mesh(mesh(data=2), RULES):
    y = jax.jit(lambda x: placement.constrain(x, ("batch", None)))(x)
  assert y.addressable_shards[0].data.shape == (2, 6)
  np.testing.assert_array_equal(x, y)


def test_without_a_mesh_or_rules_nothing_happens():
  x = jnp.ones((4, 6))
  assert placement.constrain(x, ("batch", None)) is x
  assert placement.mesh_axes((4,), ("batch",)) is None
  assert placement.num_shards(4, "batch") == 1
  with sharding.use_mesh(mesh(data=2), ()):
    assert placement.constrain(x, ("batch", None)) is x
