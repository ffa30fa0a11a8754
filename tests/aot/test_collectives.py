"""Each collective is found once, on its axes, with what it sends and how often."""

import pathlib

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from vdm_jax import sharding
from vdm_jax.aot import collectives, hlo

TEXT = (pathlib.Path(__file__).parent / "collectives.hlo").read_text()
MESH = {"data": 2, "fsdp": 2, "seq": 2}
WEIGHT = 24 * 96 * 2  # bytes of the shard
CLIP = 2 * 16 * 4 * 48 * 2


@pytest.fixture(scope="module")
def found():
  return collectives.find_collectives(
    hlo.parse_module(TEXT), MESH, slices=[0, 0, 0, 0, 1, 1, 1, 1]
  )


def of(found, kind):
  return [c for c in found if c.kind == kind]


def test_each_is_found_once_on_its_axes_with_what_it_sends(found):
  sent = {(c.kind, c.axes, c.over_dcn): c.bytes for c in found}
  assert len(sent) == len(found)  # groups of one device are nothing
  assert sent == {
    # Written as start and done, in a loop of fourteen turns.
    ("all-gather", ("fsdp",), False): 14 * WEIGHT,
    # A fusion of reduce and slice.
    ("reduce-scatter", ("fsdp",), False): 14 * 2 * WEIGHT * 1 / 2,
    # Slices send to each other through the runtime.
    ("reduce-scatter", ("data",), True): 40 / 2,
    ("all-to-all", ("seq",), False): 14 * CLIP / 2,  # what is not its own
    ("all-reduce", ("data", "fsdp", "seq"), True): 2 * 7 / 8 * 40,
    ("all-reduce", ("data", "seq"), True): 2 * 3 / 4 * 40,
    # Of the devices that send elsewhere.
    ("collective-permute", ("data",), True): 40 * 7 / 8,
  }
  (gather,), (swap,) = of(found, "all-gather"), of(found, "all-to-all")
  assert (gather.count, gather.devices) == (14, 2)
  assert gather.scan == "blocks (backward)"
  assert swap.shapes == ("bf16[2,16,4,48]",)
  assert {c.scan for c in of(found, "all-reduce")} == {""}


def test_the_table_adds_up_and_tells_parameters_from_activations(found):
  rows = collectives.sum_collectives(found, parameter_shapes=[(14, 48, 96), (96,)])
  assert sum(r["bytes"] for r in rows) == sum(c.bytes for c in found)
  assert [r["bytes"] for r in rows] == sorted((r["bytes"] for r in rows), reverse=True)
  moves = {(r["kind"], r["axes"]): r["moves"] for r in rows}
  assert moves["all-gather", "fsdp"] == moves["reduce-scatter", "fsdp"] == "parameters"
  assert moves["all-to-all", "seq"] == "activations"


def test_every_way_to_write_groups_is_read():
  for groups, axes in (
    ("replica_groups=mesh['a'=4,'b'=2] {'b'}", ("seq",)),
    ("replica_groups=mesh['a'=4,'b'=2] {'a'}", ("data", "fsdp")),
    ("replica_groups=mesh['a'=8] {'a':(2)2}", ("fsdp",)),
    (
      "replica_groups=mesh['a'=2,'b'=4], device_ids=([0,4,1,5,2,6,3,7]) {'a'}",
      ("fsdp",),
    ),
    ("replica_groups=mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'a'}", ("seq",)),
    ("replica_groups={{0,1},{2,3},{4,5},{6,7}}", ("seq",)),
    ("replica_groups={{0,3},{1,2},{4,7},{5,6}}", ("part of", "fsdp", "seq")),
    ("replica_groups={}", ("data", "fsdp", "seq")),
  ):
    text = TEXT.replace("replica_groups=[4,2]<=[8]", groups)
    assert text != TEXT
    found = collectives.find_collectives(hlo.parse_module(text), MESH)
    assert [swap.axes for swap in of(found, "all-to-all")] == [axes]


def test_groups_that_cannot_be_read_are_no_silence():
  text = TEXT.replace("replica_groups=[4,2]<=[8]", "replica_groups=somehow")
  with pytest.raises(ValueError, match="Cannot read the groups"):
    collectives.find_collectives(hlo.parse_module(text), MESH)


def test_a_real_program_on_two_devices():
  """Weights over fsdp are gathered in each of six layers, forwards and backwards."""
  mesh = sharding.make_mesh({"data": 1, "fsdp": 2})
  place = lambda *axes: jax.sharding.NamedSharding(mesh, P(*axes))
  ws = jax.ShapeDtypeStruct((6, 64, 64), jnp.float32, sharding=place(None, "fsdp"))
  x = jax.ShapeDtypeStruct((8, 64), jnp.float32, sharding=place("fsdp"))

  def loss(ws, x):
    def layer(x, w):
      x = jnp.tanh(x @ jax.lax.with_sharding_constraint(w, place()))
      return jax.lax.with_sharding_constraint(x, place("fsdp")), None

    return jnp.sum(jax.lax.scan(layer, x, ws)[0] ** 2)

  step = jax.jit(jax.grad(loss), out_shardings=ws.sharding)
  module = hlo.parse_module(step.lower(ws, x).compile().as_text())
  found = collectives.find_collectives(module, mesh.shape)
  gathers = of(found, "all-gather")
  assert gathers and all(c.axes == ("fsdp",) for c in found)
  assert sum(c.count for c in gathers) in (6, 12)  # kept for the backward pass, or not
  assert {c.bytes / c.count for c in gathers} == {32 * 64 * 4}
  rows = collectives.sum_collectives(found, [(6, 64, 64)])
  assert {r["moves"] for r in rows if r["kind"] == "all-gather"} == {"parameters"}
