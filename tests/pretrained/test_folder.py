"""Folders of published components: opened whole or not at all, placed, written."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from experiments.parity import memory
from tests.support import suite
from tests.support.published import pipelines
from tests.support.published.folder import RULES, content, equal
from vdm_jax import pretrained, sharding
from vdm_jax.pretrained import folder
from vdm_jax.pretrained.formats import chunks, files


@pytest.fixture
def theirs(tmp_path):
  """A folder of T5EncoderModel."""
  return pipelines.write("t5_encoder", tmp_path / "theirs")


def rewrite(path, **changes):
  """Changes tensors of a safetensors file; None leaves one out."""
  state = safetensors_numpy.load_file(path) | changes
  state = {k: v for k, v in state.items() if v is not None}
  safetensors_numpy.save_file(state, path, metadata={"format": "pt"})


def test_a_module_may_be_given(theirs):
  module, params = pretrained.load(theirs)
  (theirs / "config.json").unlink()
  again, found = pretrained.load(theirs, module=module)
  assert again == module
  equal(found, params)
  with pytest.raises(ValueError, match="encoder.block.2.*is not of this model"):
    pretrained.load(theirs, module=module.clone(depth=2))


@pytest.mark.parametrize("limit", [1, *suite.only_complete(200), chunks.LIMIT])
@pytest.mark.parametrize("axis", ["fsdp", "tensor"])
def test_each_device_gets_its_part(theirs, monkeypatch, axis, limit):
  monkeypatch.setattr(chunks, "LIMIT", limit)
  _, expected = pretrained.load(theirs)
  axes = dict(data=1, fsdp=1, tensor=1) | {axis: 2}
  mesh = sharding.make_mesh(axes)
  module, params = pretrained.load(theirs, mesh=mesh, rules=RULES)
  equal(params, expected)
  init = lambda k: module.init(k, jnp.zeros((1, 2), int), jnp.ones((1, 2)))["params"]
  shapes = jax.eval_shape(init, jax.random.key(0))
  places = sharding.param_shardings(shapes, mesh, RULES)
  split = 0
  for x, place in zip(jax.tree.leaves(params), jax.tree.leaves(places), strict=True):
    assert x.sharding == place
    split += not x.sharding.is_fully_replicated
    for part in x.addressable_shards:
      assert part.data.shape == place.shard_shape(x.shape)
      np.testing.assert_array_equal(part.data, np.asarray(x)[part.index])
  assert split >= 4  # qkv, out, the perceptron


def test_weights_come_as_those_they_replace(theirs):
  module, params = pretrained.load(theirs)
  mesh = sharding.make_mesh(dict(data=1, fsdp=2, tensor=1))
  _, like = pretrained.load(theirs, dtype=jnp.bfloat16, mesh=mesh, rules=RULES)
  found = folder.load_like(like, theirs)
  equal(found, jax.tree.map(lambda x: x.astype(jnp.bfloat16), params))
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(like), strict=True):
    assert a.sharding == b.sharding and a.dtype == b.dtype
  other = dict(params, more=np.ones(2))
  other["norm"] = {"scale": np.ones(5)}
  with pytest.raises(ValueError) as caught:
    folder.load_like(other, theirs)
  assert f"more has shape None in {theirs}, expected (2,)" in str(caught.value)
  assert f"norm/scale has shape (8,) in {theirs}, expected (5,)" in str(caught.value)


@pytest.mark.parametrize(
  "text, message",
  [
    ("{", "config.json is no JSON"),
    pytest.param("[" * 200_000, "config.json is no JSON", id="deep"),
    ("[1]", "holds a list, expected an object"),
    ("{}", "is of the class no class; what opens is .*T5EncoderModel"),
    ('{"architectures": []}', "is of the class no class"),
    ('{"architectures": ["GPT2Model"]}', "is of the class GPT2Model; what opens"),
    ('{"_class_name": "UNet2DModel"}', "is of the class UNet2DModel"),
  ],
)
def test_configs_that_do_not_open(theirs, text, message):
  (theirs / "config.json").write_text(text)
  with pytest.raises(ValueError, match=message):
    pretrained.load(theirs)
  # And with torn weights, both are named.
  file = theirs / "model.safetensors"
  file.write_bytes(file.read_bytes()[:-1])
  with pytest.raises(ValueError, match=f"(?s){message}.*{file} is no whole"):
    pretrained.load(theirs)
  file.unlink()
  with pytest.raises(ValueError, match=f"(?s){message}.*has no weights"):
    pretrained.load(theirs)


def test_paths_that_do_not_open(theirs, tmp_path):
  for path in ("gone", "gone/model.safetensors", "gone.pt"):
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
      pretrained.load(tmp_path / path)
  (theirs / "config.json").rename(theirs / "other.json")
  with pytest.raises(FileNotFoundError, match="has no config.json"):
    pretrained.load(theirs)
  (theirs / "other.json").rename(theirs / "config.json")
  (theirs / "model.safetensors").unlink()
  with pytest.raises(FileNotFoundError, match="has no weights"):
    pretrained.load(theirs)


def test_every_wrong_name_and_shape_is_in_one_error(theirs, monkeypatch):
  placed = []
  monkeypatch.setattr(chunks, "to_devices", lambda *args: placed.append(args))
  block = "encoder.block.{}.layer.1.DenseReluDense.wo.weight"
  rewrite(
    theirs / "model.safetensors",
    **{
      block.format(0): None,
      block.format(2): None,
      block.format(1): np.zeros((8, 5), np.float32),
      "encoder.block.3.layer_norm.weight": np.ones(8, np.float32),
      "lm_head.weight": np.ones((9, 8), np.float32),
    },
  )
  with pytest.raises(ValueError) as caught:
    pretrained.load(theirs)
  for line in (
    "5 problems",
    f"{block.format(0)} is missing",
    f"{block.format(2)} is missing",
    f"{block.format(1)} has shape (8, 5), expected (8, 6)",
    "encoder.block.3.layer_norm.weight is not of this model",
    "lm_head.weight is not of this model",
  ):
    assert line in str(caught.value)
  assert not placed  # never a partly filled tree


def test_tables_that_should_be_one_are_compared(theirs):
  state = safetensors_numpy.load_file(theirs / "model.safetensors")
  table = {"encoder.embed_tokens.weight": state["shared.weight"]}
  rewrite(theirs / "model.safetensors", **table)
  pretrained.load(theirs)
  rewrite(theirs / "model.safetensors", **{k: x + 1 for k, x in table.items()})
  with pytest.raises(ValueError, match="embed_tokens.weight is not the same as shared"):
    pretrained.load(theirs)


def test_a_new_save_leaves_no_old_weights_and_touches_nothing_else(theirs):
  module, params = pretrained.load(theirs)
  other = {"README.md": "hello", "model_index.json.bak": "{}", "model.fp16.txt": ""}
  for name, text in other.items():
    (theirs / name).write_text(text)
  files_of = lambda: sorted(f.name for f in theirs.iterdir() if f.name not in other)
  names = ["config.json", "model.safetensors"]
  shards = lambda n: [f"model-{i:05d}-of-{n:05d}.safetensors" for i in range(1, n + 1)]
  size = sum(x.nbytes for x in jax.tree.leaves(params))
  for limit, expected in (
    (700, None),
    (size // 2, None),
    (size, names),
  ):
    pretrained.save(theirs, module, params, max_shard=limit)
    count = len(list(theirs.glob("*-of-*")))
    many = ["config.json", *shards(count), "model.safetensors.index.json"]
    assert files_of() == (expected or many)
    equal(pretrained.load(theirs)[1], params)
  assert {name: (theirs / name).read_text() for name in other} == other


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
@pytest.mark.parametrize("after", [0, 1, 2])
def test_an_interrupted_save_leaves_the_folder_as_it_was(
  theirs, monkeypatch, error, after
):
  module, params = pretrained.load(theirs)
  before, written, write = content(theirs), [], files._write_one

  def failing(path, spec, arrays):
    if len(written) == after:
      path.write_bytes(b"half a file")
      raise error("the disk is full")
    written.append(path)
    write(path, spec, arrays)

  with monkeypatch.context() as patch:
    patch.setattr(files, "_write_one", failing)
    bent = jax.tree.map(lambda x: x + 1, params)
    with pytest.raises(error, match="the disk is full"):
      pretrained.save(theirs, module, bent, max_shard=700)
  assert content(theirs) == before and len(list(theirs.iterdir())) == len(before)
  equal(pretrained.load(theirs)[1], params)
  pretrained.save(theirs, module, bent, max_shard=700)
  equal(pretrained.load(theirs)[1], bent)


def test_wrong_parameters_are_refused_before_anything_is_written(theirs, tmp_path):
  module, params = pretrained.load(theirs)
  before = content(theirs)
  rest = {k: v for k, v in params.items() if k != "norm"} | {"more": np.ones(2)}
  for path in (theirs, tmp_path / "new"):
    with pytest.raises(ValueError, match="norm/scale is missing\n  more is not of"):
      pretrained.save(path, module, rest)
    with pytest.raises(ValueError, match="stacks 3 blocks, expected 4"):
      pretrained.save(path, module.clone(depth=4), params)
  assert content(theirs) == before and not (tmp_path / "new").exists()


def test_halves_are_written_as_they_are(theirs, tmp_path):
  module, params = pretrained.load(theirs, dtype=jnp.bfloat16)
  pretrained.save(tmp_path / "ours", module, params)
  found = files.open_tensors(tmp_path / "ours")
  assert {x.dtype for x in found.values()} == {np.dtype(ml_dtypes.bfloat16)}


def test_numbers_that_a_short_type_cannot_hold_are_named(theirs):
  file = theirs / "model.safetensors"
  name, x = next(iter(safetensors_numpy.load_file(file).items()))
  rewrite(file, **{name: np.full_like(x, 7e4)})
  with pytest.raises(ValueError, match=r"has numbers up to 7e\+04, which are infinite"):
    pretrained.load(theirs, dtype=jnp.float16)
  whole = pretrained.load(theirs, dtype=jnp.bfloat16)[1]
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(whole))


def test_little_memory_is_held_beside_the_parameters():
  """300 MB in shards of 50 MB; limits as of a few pieces, and the largest tensor."""
  config = memory.CONFIG | dict(d_model=512, num_heads=8, d_ff=2048, num_layers=16)
  found = memory.measure(config, max_shard=50 * memory.MB, limit=2 * memory.MB)
  assert found["checkpoint"] > 300 * memory.MB and found["shards"] > 5
  assert found["parameters"] == found["checkpoint"] and found["wrong"] == []
  assert found["held"] < 1.2 * found["largest_tensor"] + 60 * memory.MB
  assert found["samples"] > 20


def test_the_measure_sees_a_parameter_that_is_held(monkeypatch):
  """The control: with pieces of any size, each stack is held whole before it is put."""
  config = memory.CONFIG | dict(d_model=512, num_heads=8, d_ff=2048, num_layers=16)
  found = memory.measure(config, max_shard=50 * memory.MB, limit=10**12)
  assert found["held"] > 1.2 * found["largest_tensor"] + 60 * memory.MB
