"""Meshes, rules, and a training step that does not depend on them."""

import dataclasses
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from einops import rearrange
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from vdm_jax import sharding
from vdm_jax.training import optimizer, step
from vdm_jax.training import state as state_lib

RULES = (("batch", ("data", "fsdp")), ("embed", "fsdp"), ("mlp", "tensor"))


def shape(*sizes, names=None):
  x = jax.ShapeDtypeStruct(sizes, jnp.float32)
  return x if names is None else nn.LogicallyPartitioned(x, names)


def test_minus_one_takes_what_is_left():
  mesh = sharding.make_mesh({"data": -1, "fsdp": 1})
  assert dict(mesh.shape) == {"data": 2, "fsdp": 1}
  assert dict(sharding.make_mesh({"data": 1, "fsdp": -1}).shape)["fsdp"] == 2
  one = sharding.make_mesh({"data": -1}, devices=jax.devices()[:1])
  assert one.size == 1


@dataclasses.dataclass(frozen=True)
class Chip:
  """What a mesh asks of a device that is not here."""

  id: int
  process_index: int
  slice_index: int
  platform: str = "gpu"
  device_kind: str = "NVIDIA H100 80GB HBM3"


def chips(hosts, each, slices=None):
  """`each` on every host; by default a host is a slice."""
  slices = hosts if slices is None else slices
  place = lambda i: (i // each, i // each * slices // hosts)
  return [Chip(i, *place(i)) for i in range(hosts * each)]


SLICES = chips(4, 4)


def crossing(mesh, what="slice_index"):
  """The axes along which devices are of different slices, or hosts."""
  number = np.vectorize(lambda device: getattr(device, what))(mesh.devices)
  return [a for i, a in enumerate(mesh.axis_names) if np.ptp(number, axis=i).any()]


def test_slices_lie_on_the_axes_that_the_config_says():
  for axes, dcn, shape, expected in (
    (dict(data=-1, fsdp=4), None, (4, 4), ["data"]),
    (dict(data=2, fsdp=-1), dict(fsdp=4), (2, 8), ["fsdp"]),
    (dict(data=2, fsdp=8), dict(data=2, fsdp=-1), (2, 8), ["data", "fsdp"]),
    (dict(data=-1, fsdp=1, seq=4), dict(seq=-1), (4, 1, 4), ["seq"]),
  ):
    mesh = sharding.make_mesh(axes, chips(4, 4), dcn)
    assert mesh.devices.shape == shape and len(set(mesh.devices.flat)) == 16
    assert crossing(mesh) == expected
    assert set(mesh.axis_types) == {jax.sharding.AxisType.Auto}


def test_hosts_without_slices_are_slices_where_the_config_speaks_of_them():
  axes, hosts = dict(data=4, fsdp=4), chips(4, 4, slices=1)
  assert crossing(sharding.make_mesh(axes, hosts), "process_index") == ["data"]
  mesh = sharding.make_mesh(axes, hosts, dict(fsdp=4))
  assert crossing(mesh, "process_index") == ["fsdp"]
  tpus = [dataclasses.replace(chip, platform="tpu") for chip in hosts]
  with pytest.raises(ValueError, match="needs 4 slices, there are 1"):
    sharding.make_mesh(axes, tpus, dict(fsdp=4))  # ICI joins these hosts


def test_a_mesh_that_does_not_fit_is_refused():
  for message, axes, *more in (
    ("needs 3 devices, there are 2", {"data": 3}),
    ("needs a multiple of 3 devices", {"data": -1, "fsdp": 3}),
    ("needs 1 devices, there are 2", {"data": 1}),
    ("at most one may be -1", {"data": -1, "fsdp": -1}),
    ("positive", {"data": 0}),
    ("positive", {}),
    ("data=1 cannot cross 4 slices.*cfg.dcn", dict(data=1, fsdp=16), SLICES),
    (r"on 'data'.*\('fsdp',\).*dict\(fsdp=4\)", dict(fsdp=16), SLICES),
    ("cannot be on 'dta'", dict(data=16), SLICES, dict(dta=4)),
    ("needs 3 slices, there are 4", dict(data=16), SLICES, dict(data=3)),
    ("fsdp=2 cannot cross 4 slices", dict(data=8, fsdp=2), SLICES, dict(fsdp=4)),
    ("most one may be -1", dict(data=8, fsdp=2), SLICES, dict(data=-1, fsdp=-1)),
  ):
    with pytest.raises(ValueError, match=message):
      sharding.make_mesh(axes, *more)


ROWS = (("batch", ("data", "fsdp")),)


def test_hosts_need_the_rows_of_their_devices():
  shards = lambda mesh: [
    sharding.batch_parts_and_count(mesh, ROWS, host) for host in range(4)
  ]
  mesh = sharding.make_mesh(dict(data=-1, fsdp=2, seq=2), chips(4, 4))
  assert shards(mesh) == [((2 * k, 2 * k + 1), 8) for k in range(4)]
  axes, dcn = dict(data=1, fsdp=8, seq=2), dict(fsdp=2, seq=2)
  mesh = sharding.make_mesh(axes, chips(4, 4), dcn)
  half = [((0, 1, 2, 3), 8)] * 2, [((4, 5, 6, 7), 8)] * 2
  assert shards(mesh) == [*half[0], *half[1]]  # two hosts share each clip
  with pytest.raises(ValueError, match="process 9 has no device in the mesh"):
    sharding.batch_parts_and_count(mesh, ROWS, 9)


def test_a_host_on_a_torus_needs_rows_that_are_no_neighbours():
  # The hosts of a v5e:4x4 in the order in which JAX makes a ring of it.
  ring = [0, 0, 1, 1, 1, 1, 0, 2, 3, 3, 3, 3, 2, 2, 2, 0]
  devices = np.array([Chip(i, host, 0, "tpu") for i, host in enumerate(ring)])
  mesh = jax.sharding.Mesh(devices.reshape(16, 1), ("data", "fsdp"))
  assert sharding.batch_parts_and_count(mesh, ROWS, 0) == ((0, 1, 6, 15), 16)
  assert sharding.batch_parts_and_count(mesh, ROWS, 2) == ((7, 12, 13, 14), 16)


def test_a_rule_for_an_unknown_mesh_axis_is_refused_with_the_nearest():
  mesh = sharding.make_mesh({"data": -1, "fsdp": 1})
  with pytest.raises(ValueError, match="Did you mean 'fsdp'"):
    sharding.normalize_rules((("embed", "fsdpp"),), mesh)


def test_names_follow_the_rules_and_fall_back_to_whole():
  mesh = sharding.make_mesh({"data": 1, "fsdp": 2, "tensor": 1})
  tree = {
    "kernel": shape(4, 6, names=("embed", "mlp")),
    "odd": shape(3, 6, names=("embed", None)),
    "twice": shape(4, 4, names=("embed", "embed")),
    "unknown": shape(4, names=("nobody",)),
  }
  got = jax.tree.map(lambda s: s.spec, sharding.param_shardings(tree, mesh, RULES))
  assert got["kernel"] == P("fsdp", "tensor")
  assert got["odd"] == P(None, None)
  assert got["twice"] == P("fsdp", None)
  assert got["unknown"] == P(None)


def test_large_parameters_without_names_are_split_over_fsdp():
  mesh = sharding.make_mesh({"data": 1, "fsdp": 2})
  tree = {
    "large": shape(3, 1024, 512),
    "odd": shape(1025, 1025),
    "small": shape(1024, 1023),
  }
  got = jax.tree.map(lambda s: s.spec, sharding.param_shardings(tree, mesh, RULES[:2]))
  assert got == {"large": P(None, "fsdp"), "odd": P(), "small": P()}
  data = sharding.make_mesh({"data": 2, "fsdp": 1})
  assert sharding.param_shardings(tree, data, RULES[:2])["large"].spec == P()


def test_slots_lie_as_their_parameters():
  mesh = sharding.make_mesh({"fsdp": 2})
  params = {"generator": {"w": shape(4, 2)}, "discriminator": {"w": shape(2, 6)}}
  shardings = {
    "generator": {"w": NamedSharding(mesh, P("fsdp"))},
    "discriminator": {"w": NamedSharding(mesh, P(None, "fsdp"))},
  }
  players = {"generator": optax.adam(1.0), "discriminator": optax.adam(1.0)}
  tx = optimizer.partitioned(players)
  slots = jax.eval_shape(tx.init, params)
  got = sharding.shardings_like_params(slots, params, shardings)
  leaves = jax.tree_util.tree_leaves_with_path(got)
  found = {jax.tree_util.keystr(path): s.spec for path, s in leaves}
  mu = {k: s for k, s in found.items() if ".mu" in k}
  assert sorted(map(str, mu.values())) == sorted(map(str, [P("fsdp"), P(None, "fsdp")]))
  assert all(s == P() for k, s in found.items() if ".count" in k)


def test_batches_are_spread_by_rows_and_fetched():
  """One process puts its rows as it puts the whole batch."""
  mesh = sharding.make_mesh({"data": 2, "fsdp": 1})
  batch = {"video": np.arange(8, dtype=np.uint8).reshape(4, 2), "fps": np.float32(8)}
  puts = sharding.put_batch, sharding.put_whole_batch
  put, whole = (f(batch, mesh, ROWS) for f in puts)
  assert put["video"].sharding.spec == P(("data", "fsdp"))
  assert put["video"].addressable_shards[0].data.shape == (2, 2)
  assert put["fps"].sharding.is_fully_replicated
  assert jax.tree.all(jax.tree.map(lambda a, b: a.sharding == b.sharding, put, whole))
  for placed in (put, whole, batch):
    got = sharding.fetch(placed)
    for name, x in batch.items():
      assert isinstance(got[name], np.ndarray) and got[name].dtype == x.dtype
      np.testing.assert_array_equal(got[name], x)
  odd = {"video": np.zeros((3, 2))}
  for put, words in zip(puts, ("has 3 rows", "choose a batch size that"), strict=True):
    with pytest.raises(ValueError, match=f"{words}.*multiple of 2"):
      put(odd, mesh, ROWS)
  with pytest.raises(TypeError, match="caption"):
    sharding.put_batch({"caption": np.array(["a", "b"])}, mesh, ROWS)


class Net(nn.Module):
  @nn.compact
  def __call__(self, x):
    named = nn.with_logical_partitioning
    init = nn.initializers.lecun_normal()
    x = nn.Dense(16, kernel_init=named(init, ("embed", "mlp")))(x)
    x = nn.with_logical_constraint(nn.gelu(x), ("batch", "mlp"))
    return nn.Dense(2, kernel_init=named(init, ("mlp", "embed")))(x)


class Task:
  def init(self, key, batch):
    return Net().init(key, batch["x"])["params"]

  def loss(self, params, batch, key):
    noise = jax.random.normal(key, batch["x"].shape)
    out = Net().apply({"params": params}, batch["x"] + 0.1 * noise)
    return jnp.mean((out - batch["y"]) ** 2), {}


def train(devices, parts=2, steps=5):
  """(state, losses, program) of that many devices, each batch in `parts`."""
  axes = {"data": -1, "fsdp": 1, "tensor": 1}
  mesh = sharding.make_mesh(axes, jax.devices()[:devices])
  task, tx = Task(), optimizer.adamw(learning_rate=1e-2, weight_decay=0.1)
  x = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
  batch = {"x": x, "y": np.sin(x[:, :2])}
  spec = {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in batch.items()}
  key, losses = jax.random.key(1), []
  create = state_lib.create_state_and_shardings
  state, shardings = create(task, tx, spec, key, mesh, RULES)
  one = step.make_step(task.loss, tx, 0.9, shardings=shardings, accumulate=parts)
  batch = sharding.put_batch(batch, mesh, RULES)
  run = step.compile_step(one, shardings, mesh, RULES)
  run = run.lower(state, batch, key).compile()
  for _ in range(steps):
    state, metrics = run(state, batch, key)
    losses.append(float(metrics["loss"]))
  return state, losses, run.as_text()


MOVES = r" (all-gather|all-to-all|collective-permute|reduce-scatter)(?:-start)?\("


def test_parts_of_a_batch_stay_on_the_devices_that_have_them():
  """Two devices train as one; on other axes: parallel/test_two_devices.py."""
  (state, losses, _), (two, others, program) = train(1), train(2)
  np.testing.assert_allclose(others, losses, rtol=1e-5)
  assert losses[-1] < losses[0]
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
  for name in ("params", "ema", "opt_state"):
    jax.tree.map(close, getattr(two, name), getattr(state, name))
  assert "all-reduce" in program  # of gradients
  assert not re.findall(MOVES, program)
  # The controls: other noise for each part is seen, and so are parts that must move.
  _, whole, _ = train(1, parts=1, steps=1)
  assert abs(whole[0] - losses[0]) > 1e-5
  mesh = sharding.make_mesh({"data": 2})
  rows, spread = (NamedSharding(mesh, P(*axes)) for axes in (("data",), (None, "data")))
  cut = jax.jit(lambda x: rearrange(x, "(k b) c -> k b c", k=2), out_shardings=spread)
  x = jax.ShapeDtypeStruct((8, 4), jnp.float32, sharding=rows)
  assert re.findall(MOVES, cut.lower(x).compile().as_text())


def test_parts_of_a_batch_that_the_mesh_cannot_share_are_refused():
  mesh, rules = sharding.make_mesh(dict(data=2)), (("batch", "data"),)
  rows = {"x": np.zeros((12, 3))}
  for parts in (1, 2, 3, 6):
    sharding.check_accumulation(rows, parts, mesh, rules)
  with pytest.raises(ValueError, match="parts of 3, which 2 shards .* multiple of 8"):
    sharding.check_accumulation(rows, 4, mesh, rules)
  sharding.check_accumulation(rows, 4, mesh, (("batch", None),))
