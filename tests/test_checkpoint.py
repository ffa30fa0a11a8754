"""A checkpoint is restored bit for bit and whole, or refused by name."""

import gc
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from tests.support import drawn
from vdm_jax import checkpoint, sharding
from vdm_jax.training import inflate

KEY = jax.random.key(7)
DATA = {"next_index": 80, "epochs": [1, 2]}


def make(seed=0):
  rng = np.random.default_rng(seed)
  normal = lambda *shape: rng.normal(size=shape).astype(np.float32)
  state = {
    "step": np.asarray(10, np.int32),
    "params": {"a": {"kernel": normal(8, 6), "bias": normal(6)}, "b": normal(4)},
    "large": normal(100, 100),
    "frozen": {},
    "ema": {"a": {"kernel": normal(8, 6).astype(jnp.bfloat16)}},
    "opt_state": (
      {"mask": normal(3) > 0, "empty": np.zeros((0, 3), np.float32)},
      normal(5, 5),
    ),
  }
  return jax.tree.map(jnp.asarray, state)


def saved(folder, state=None, steps=(10,), **kwargs):
  checkpointer = checkpoint.Checkpointer(folder, **kwargs)
  for step in steps:
    checkpointer.save(step, state or make(), key=KEY, loader_state=DATA)
  checkpointer.wait()
  return checkpointer


def assert_equal(got, want):
  assert jax.tree.structure(got) == jax.tree.structure(want)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    assert a.dtype == b.dtype
    assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.fixture(scope="module")
def good(tmp_path_factory):
  folder = tmp_path_factory.mktemp("checkpoints")
  saved(folder).close()
  return folder


def test_everything_comes_back_bit_for_bit(good):
  state = make()
  restored = checkpoint.Checkpointer(good).restore_latest(make(seed=1))
  assert_equal(restored.state, state)
  assert (restored.step, restored.loader_state) == (10, DATA)
  np.testing.assert_array_equal(
    jax.random.normal(restored.key, (3,)), jax.random.normal(KEY, (3,))
  )


def test_an_empty_folder_has_nothing_to_restore(tmp_path):
  assert checkpoint.Checkpointer(tmp_path / "new").restore_latest(make()) is None
  with pytest.raises(FileNotFoundError, match="no checkpoint .*Train first"):
    checkpoint.restore_part(tmp_path / "new", "ema")


def test_a_checkpoint_goes_to_another_mesh(tmp_path):
  def place(state, devices):
    mesh = sharding.make_mesh({"fsdp": -1}, jax.devices()[:devices])
    spec = lambda x: P("fsdp") if x.ndim == 2 and x.shape[0] == 8 else P()
    put = lambda x: jax.device_put(x, NamedSharding(mesh, spec(x)))
    return jax.tree.map(put, state)

  for before, after in ((1, 2), (2, 1)):
    folder = tmp_path / str(before)
    saved(folder, place(make(), before)).close()
    like = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
      place(make(), after),
    )
    got = checkpoint.Checkpointer(folder).restore_latest(like).state
    assert_equal(got, make())
    same = lambda x, want: x.sharding == want.sharding
    assert jax.tree.all(jax.tree.map(same, got, like))
    kernel = got["params"]["a"]["kernel"]
    assert len(kernel.addressable_shards) == after


def test_a_part_is_restored_alone(good):
  state = make()
  assert_equal(checkpoint.restore_part(good, "ema"), state["ema"])
  assert_equal(checkpoint.restore_part(good, "params/a"), state["params"]["a"])
  assert_equal(checkpoint.restore_part(good, "params/b"), state["params"]["b"])
  assert checkpoint.restore_part(good, "frozen") == {}
  assert checkpoint.saved_steps(good) == [10]
  mesh = sharding.make_mesh({"data": -1})
  part = checkpoint.restore_part(good, "ema", sharding=sharding.replicated(mesh))
  assert len(part["a"]["kernel"].addressable_shards) == 2
  with pytest.raises(KeyError, match="no part 'emma'; it has ema/a"):
    checkpoint.restore_part(good, "emma")
  with pytest.raises(FileNotFoundError, match=r"of step 20 .* there are \[10\]"):
    checkpoint.restore_part(good, "ema", step=20)


def test_the_newest_and_every_mth_are_kept(tmp_path):
  saved(tmp_path, steps=range(1, 9), keep=2, keep_every=4).close()
  assert checkpoint.saved_steps(tmp_path) == [4, 7, 8]


def test_a_saved_state_may_be_donated_at_once(tmp_path):
  add = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
  state = add({"params": {"w": jnp.zeros(2**20)}})
  with_save = checkpoint.Checkpointer(tmp_path)
  with_save.save(1, state, key=KEY)
  for _ in range(30):
    state = add(state)  # overwrites the memory while it is being written
  with_save.wait()
  got = with_save.restore_latest(state).state
  np.testing.assert_array_equal(got["params"]["w"], 1.0)


def test_a_step_is_saved_once(tmp_path):
  checkpointer = saved(tmp_path)
  checkpointer.save(10, make(seed=1), key=KEY)
  checkpointer.wait()
  assert_equal(checkpointer.restore_latest(make()).state, make())


def test_another_model_is_refused_with_every_name(good):
  other = make()
  other["params"]["a"]["kernel"] = jnp.zeros((8, 7))
  other["params"]["b"] = jnp.zeros(4, jnp.int32)
  other["params"]["new"] = jnp.zeros(1)
  del other["ema"]["a"]["kernel"]
  with pytest.raises(checkpoint.CheckpointError) as error:
    checkpoint.Checkpointer(good).restore_latest(other)
  for part in (
    str(good / "10"),
    "params/a/kernel is [[8, 6], 'float32'] in the checkpoint, [[8, 7], 'float32']",
    "params/b is [[4], 'float32'] in the checkpoint, [[4], 'int32'] here",
    "params/new is not in the checkpoint",
    "ema/a/kernel is only in the checkpoint",
  ):
    assert part in str(error.value)


def break_meta(change):
  def change_it(folder):
    path = folder / "10" / "meta" / "metadata"
    meta = json.loads(path.read_text())
    change(meta)
    path.write_text(json.dumps(meta))

  return change_it


@pytest.mark.parametrize(
  "spoil, message",
  [
    (break_meta(lambda m: m.update(format="other")), r"its format is \('other', 1\)"),
    (break_meta(lambda m: m.update(version=2)), "its format is .*, 2"),
    (break_meta(lambda m: m.pop("data")), "entries"),
    (break_meta(lambda m: m["key"].update(impl="dice")), "its key is"),
    (lambda f: (f / "10").rename(f / "20"), "has step 10"),
    (lambda f: shutil.rmtree(f / "10" / "meta"), "meta/metadata is missing"),
    (lambda f: shutil.rmtree(f / "10" / "state"), "arrays cannot be read"),
    (lambda f: (f / "30").mkdir(), "meta/metadata is missing"),
  ],
  ids=["format", "version", "entry", "key", "moved", "no-meta", "no-state", "empty"],
)
def test_a_foreign_or_torn_checkpoint_is_refused(good, tmp_path, spoil, message):
  shutil.copytree(good, tmp_path, dirs_exist_ok=True)
  spoil(tmp_path)
  with pytest.raises(checkpoint.CheckpointError, match=message) as error:
    checkpoint.Checkpointer(tmp_path).restore_latest(make())
  assert f"{tmp_path}" in str(error.value) and "nothing was loaded" in str(error.value)


def test_another_programs_checkpoint_is_refused(tmp_path):
  with ocp.CheckpointManager(tmp_path) as manager:
    manager.save(10, args=ocp.args.StandardSave({"params": jnp.zeros(3)}))
  with pytest.raises(checkpoint.CheckpointError, match="not ours"):
    checkpoint.Checkpointer(tmp_path).restore_latest(make())


def flip(path):
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 255
  path.write_bytes(bytes(data))


SPOILS = {
  "removed": lambda path: path.unlink(),
  "emptied": lambda path: path.write_bytes(b""),
  "halved": lambda path: path.write_bytes(
    path.read_bytes()[: path.stat().st_size // 2]
  ),
  "flipped": flip,
}


@pytest.fixture
def collected():
  """What other tests left is not looked through in each of many collections."""
  gc.collect()
  gc.freeze()
  yield
  gc.unfreeze()


@pytest.mark.parametrize("spoil", SPOILS)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("collected")
def test_any_spoilt_file_is_refused_or_harmless(good, tmp_path, spoil):
  names = [p.relative_to(good) for p in (good / "10").rglob("*") if p.is_file()]
  refused = set()
  for i, name in enumerate(sorted(names)):
    folder = tmp_path / str(i)
    shutil.copytree(good, folder)
    SPOILS[spoil](folder / name)
    try:
      restored = checkpoint.Checkpointer(folder).restore_latest(make(seed=1))
    except checkpoint.CheckpointError as error:
      assert str(folder / "10") in str(error)
      refused.add(name.name)
      del error
      gc.collect()  # what orbax was still reading, within this test's filter
    else:
      assert_equal(restored.state, make())
      assert (restored.step, restored.loader_state) == (10, DATA)
  assert {"metadata", "manifest.ocdbt"} <= refused
  largest = max((good / "10").rglob("*"), key=lambda p: p.stat().st_size)
  assert largest.name in refused  # it holds the numbers


def test_an_interrupted_save_leaves_the_one_before(good, tmp_path):
  shutil.copytree(good, tmp_path, dirs_exist_ok=True)
  torn = tmp_path / "20.orbax-checkpoint-tmp"
  shutil.copytree(good / "10", torn)
  (torn / "meta" / "metadata").unlink()
  checkpointer = checkpoint.Checkpointer(tmp_path)
  restored = checkpointer.restore_latest(make())
  assert restored.step == 10
  rest = dict(key=restored.key, loader_state=restored.loader_state)
  checkpointer.save(20, restored.state, **rest)
  checkpointer.close()
  assert sorted(p.name for p in tmp_path.iterdir()) == ["10", "20"]


def test_an_interrupted_deletion_of_an_old_one_does_no_harm(good, tmp_path):
  shutil.copytree(good, tmp_path, dirs_exist_ok=True)
  (tmp_path / "5" / "state").mkdir(parents=True)
  checkpointer = checkpoint.Checkpointer(tmp_path, keep=1)
  assert checkpointer.restore_latest(make()).step == 10
  checkpointer.save(20, make(), key=KEY)
  checkpointer.close()
  assert checkpoint.saved_steps(tmp_path) == [20]


def test_a_data_state_that_is_no_json_is_refused(tmp_path):
  with pytest.raises(TypeError, match="loader's state cannot be written as JSON"):
    rest = dict(key=KEY, loader_state={"rng": object()})
    checkpoint.Checkpointer(tmp_path).save(1, make(), **rest)


def test_checksums_see_every_place_and_do_not_depend_on_the_mesh():
  x = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
  summed = jax.jit(checkpoint._sum)
  want = summed(x)
  mesh = sharding.make_mesh({"fsdp": 2})
  spread = jax.device_put(x, NamedSharding(mesh, P("fsdp")))
  assert summed(spread) == want
  swapped = x.copy()
  swapped[0, 0], swapped[3, 5] = x[3, 5], x[0, 0]
  assert summed(swapped) != want
  for i in range(x.size):
    other = x.copy()
    other.ravel()[i] = np.nextafter(x.ravel()[i], np.float32(9))
    assert summed(other) != want


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "bool", "int8", "uint32"])
def test_checksums_on_the_host_are_those_of_the_devices(dtype):
  x = np.round(2 * drawn.normal(3, 5, 2)).astype(np.int8).astype(dtype)
  mesh = sharding.make_mesh({"fsdp": 2})
  spread = jax.device_put(x.swapaxes(0, 2), NamedSharding(mesh, P("fsdp")))
  here, there = jax.device_get(
    jax.jit(lambda *many: [checkpoint._sum(y) for y in many])(x, spread)
  )
  assert checkpoint._sum_here(x) == here
  (got,) = checkpoint._summed([spread])
  assert got == there != here


def test_a_training_may_start_from_what_another_left(tmp_path):
  tree = {"a": {"b": np.arange(3, dtype=np.float32)}}
  saved(tmp_path, {"ema": tree, "params": tree}, steps=(1,)).close()
  initial = {"a": {"b": np.zeros(3, np.float32)}}
  loaded = inflate.inflate(initial, folder=tmp_path)
  assert loaded["a"]["b"].tolist() == [0.0, 1.0, 2.0]
  with pytest.raises(FileNotFoundError, match="Train first"):
    inflate.inflate(initial, folder=tmp_path / "none")
