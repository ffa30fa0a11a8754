"""Folders of published components: opened whole or not at all, placed, written."""

import functools
import json

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
import transformers

from tests.support import golden_files
from vdm_jax import pretrained, sharding
from vdm_jax.conditioning import Conditioning
from vdm_jax.models.transformer import video_dit
from vdm_jax.pretrained import folder
from vdm_jax.pretrained.formats import chunks
from vdm_jax.training import state as state_lib
from vdm_jax.training import step as step_lib

RULES = (
  ("batch", ("data", "fsdp")),
  ("embed", "fsdp"),
  ("heads", "tensor"),
  ("mlp", "tensor"),
)


T5 = dict(d_model=8, d_kv=4, d_ff=6, num_layers=3, num_heads=2, vocab_size=9)


DIT = dict(num_attention_heads=3, attention_head_dim=4, num_layers=1, in_channels=4)


DIT |= dict(out_channels=8, sample_size=6, num_embeds_ada_norm=3)


def filled(theirs):
  """The original with random weights, none of them zero."""
  with torch.no_grad():
    for name, x in theirs.named_parameters():
      x.copy_(torch.from_numpy(golden_files.fill(name, tuple(x.shape), 0)))
  return theirs.eval()


@pytest.fixture(scope="module")
def encoder():
  config = transformers.T5Config(**T5, feed_forward_proj="gated-gelu")
  return filled(transformers.T5EncoderModel(config))


@pytest.fixture(scope="module")
def network():
  return filled(diffusers.DiTTransformer2DModel(**DIT))


@pytest.fixture
def theirs(encoder, tmp_path):
  encoder.save_pretrained(tmp_path / "theirs")
  return tmp_path / "theirs"


def arrays(model):
  return {k: v.numpy() for k, v in model.state_dict().items()}


def equal(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("limit", [1, 100, chunks.LIMIT])
@pytest.mark.parametrize("form", ["one file", "shards", "variant", ".bin", "the file"])
def test_all_forms_open_as_the_same(encoder, tmp_path, monkeypatch, form, limit):
  monkeypatch.setattr(chunks, "LIMIT", limit)
  path = tmp_path
  if form == ".bin":
    encoder.config.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"architectures": NAME}))
    torch.save(encoder.state_dict(), tmp_path / "pytorch_model.bin")
    path = tmp_path
  else:
    size = "1KB" if form == "shards" else "1GB"
    variant = "fp16" if form == "variant" else None
    encoder.save_pretrained(tmp_path, max_shard_size=size, variant=variant)
    assert (form == "shards") == bool(list(tmp_path.glob("*-of-*")))
    path = tmp_path / "model.safetensors" if form == "the file" else tmp_path
  module, params = pretrained.load(path)
  assert all(isinstance(x, jax.Array) for x in jax.tree.leaves(params))
  equal(params, pretrained.from_state_dict(module, arrays(encoder)))


NAME = ["T5EncoderModel"]


@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["float", "bfloat"])
def test_types_are_converted_once(tmp_path, stored, dtype):
  config = transformers.T5Config(**T5)
  theirs = filled(transformers.T5EncoderModel(config)).to(stored)
  theirs.save_pretrained(tmp_path)
  module, params = pretrained.load(tmp_path, dtype=dtype)
  assert module.dtype == module.param_dtype == dtype
  kernel = params["blocks"]["mlp_out"]["kernel"]
  assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype(dtype)}
  wanted = theirs.encoder.block[1].layer[1].DenseReluDense.wo.weight.float()
  np.testing.assert_array_equal(
    kernel[1], wanted.detach().numpy().T.astype(jnp.dtype(dtype))
  )
  out = module.apply(params, np.ones((1, 3), int), np.ones((1, 3), bool))
  assert out.dtype == dtype


def test_the_config_speaks_of_latents_even_if_a_module_is_given(tmp_path):
  """Or a module of SDXL's would silently have the factor of Stable Diffusion."""
  theirs = diffusers.AutoencoderKL(
    block_out_channels=(8,), norm_num_groups=4, latent_channels=2, scaling_factor=0.5
  )
  theirs.save_pretrained(tmp_path)
  module, params = pretrained.load(tmp_path)
  _, found = pretrained.load(tmp_path, module=module)
  equal(found, params)
  np.testing.assert_array_equal(found["latents"]["scale"], [2.0, 2.0])


@pytest.fixture(scope="module")
def upstream():
  """(module, state dict) of a small Latte, as upstream names it, with its tables."""
  module = video_dit.VideoDiT(
    out_channels=8,
    width=384,
    num_heads=6,
    depth=2,
    num_classes=3,
    mlp_ratio=0.25,
    num_frames=4,
  )
  cond = Conditioning(vectors={"label": np.zeros(1, int)})
  args = jnp.zeros((1, 4, 8, 8, 4)), jnp.zeros(1), cond
  shapes = jax.eval_shape(lambda k: module.init(k, *args)["params"], jax.random.key(0))
  rng = np.random.default_rng(0)
  draw = lambda x: rng.standard_normal(x.shape).astype(np.float32)
  params = jax.tree.map(draw, sharding.unbox(shapes))
  return module, params, pretrained.to_state_dict(module, params, size=(4, 8, 8))


@pytest.mark.parametrize(
  "wrap",
  [
    lambda ema, model: {"ema": ema, "model": model},
    lambda ema, model: {"model": model, "ema": ema, "opt": {"state": {}}, "step": 3},
    lambda ema, model: {"model": ema},
    lambda ema, model: ema,
  ],
)
@pytest.mark.parametrize("half", [False, True])
def test_files_of_upstream_latte_open_by_themselves(upstream, tmp_path, wrap, half):
  module, params, state = upstream
  to = lambda x: torch.from_numpy(x).to(torch.float16 if half else torch.float32)
  ema = {k: to(x) for k, x in state.items()}
  path = tmp_path / "ucf101.pt"
  torch.save(wrap(ema, {k: x + 1 for k, x in ema.items()}), path)
  wanted = jax.tree.map(lambda x: x.astype(np.float16), params) if half else params
  for given in (None, module):
    found, loaded = pretrained.load(path, module=given)
    assert found == module
    equal(loaded, wanted)


def test_a_file_of_unknown_names_says_so(tmp_path):
  torch.save({"ema": {"x.weight": torch.ones(2)}}, tmp_path / "x.pt")
  with pytest.raises(ValueError, match="no config.json beside it and its 1 names"):
    pretrained.load(tmp_path / "x.pt")


def test_axes_that_do_not_divide_are_whole(tmp_path):
  config = transformers.T5Config(**T5 | dict(d_model=7, d_ff=5))
  filled(transformers.T5EncoderModel(config)).save_pretrained(tmp_path)
  mesh = sharding.make_mesh(dict(data=1, fsdp=2, tensor=1))
  _, wanted = pretrained.load(tmp_path)
  _, params = pretrained.load(tmp_path, mesh=mesh, rules=RULES)
  equal(params, wanted)
  assert all(x.sharding.is_fully_replicated for x in jax.tree.leaves(params))


def test_autoencoders_are_split_by_size(tmp_path, monkeypatch):
  monkeypatch.setattr(sharding, "MIN_BYTES", 1)
  theirs = diffusers.AutoencoderKL(block_out_channels=(8,), norm_num_groups=4)
  theirs.save_pretrained(tmp_path)
  _, wanted = pretrained.load(tmp_path)
  mesh = sharding.make_mesh(dict(fsdp=2))
  _, params = pretrained.load(tmp_path, mesh=mesh)
  equal(params, wanted)


class Task:
  """The square of what the network gives; enough to have gradients everywhere."""

  def __init__(self, module):
    self.module = module

  def inputs(self, batch):
    cond = Conditioning(vectors={"label": batch["label"]})
    return batch["x"], jnp.ones(len(batch["x"])), cond

  def init(self, key, batch):
    return self.module.init(key, *self.inputs(batch))["params"]

  def loss(self, params, batch, key):
    del key
    return jnp.square(self.module.apply(params, *self.inputs(batch))).mean(), {}


@pytest.mark.parametrize("init_from", ["init_from_published", "load_like"])
def test_training_starts_from_published_weights(network, tmp_path, init_from):
  network.save_pretrained(tmp_path)
  module, params = pretrained.load(tmp_path)
  start = {
    "init_from_published": lambda p: pretrained.init_from_published(p, path=tmp_path),
    "load_like": lambda p: folder.load_like(p, tmp_path),
  }[init_from]
  task, tx = Task(module), optax.sgd(1e-2)
  rng = np.random.default_rng(0)
  batch = dict(
    x=rng.standard_normal((2, 1, 6, 6, 4)).astype(np.float32), label=np.int32([0, 2])
  )
  spec = {k: jax.ShapeDtypeStruct(x.shape, x.dtype) for k, x in batch.items()}
  mesh = sharding.make_mesh(dict(data=1, fsdp=2, tensor=1))
  state, shardings = state_lib.create_state_and_shardings(
    task, tx, spec, jax.random.key(0), mesh, RULES, init_from=start
  )
  equal(state.params, params)
  step = step_lib.make_step(task.loss, tx, 0.9, shardings=shardings)
  step = step_lib.compile_step(step, shardings, mesh, RULES)
  losses = []
  for _ in range(3):
    state, metrics = step(
      state, sharding.put_batch(batch, mesh, RULES), jax.random.key(1)
    )
    losses.append(float(metrics["loss"]))
  wanted, _ = task.loss(params, batch, None)  # the donated state took nothing from it
  np.testing.assert_allclose(losses[0], wanted, rtol=1e-5)
  assert losses[2] < losses[0]


def content(path):
  return {f.name: f.read_bytes() for f in path.iterdir() if f.is_file()}


@pytest.mark.parametrize("max_shard", [10**9, 700])
@pytest.mark.parametrize("axis", [None, "fsdp", "tensor"])
def test_what_is_written_the_original_opens(encoder, theirs, tmp_path, axis, max_shard):
  mesh = axis and sharding.make_mesh(dict(data=1, fsdp=1, tensor=1) | {axis: 2})
  module, params = pretrained.load(theirs, mesh=mesh, rules=RULES)
  out = tmp_path / "deep" / "ours"
  pretrained.save(out, module, params, max_shard=max_shard)
  assert bool(list(out.glob("*-of-*"))) == (max_shard == 700)
  back, report = type(encoder).from_pretrained(out, output_loading_info=True)
  assert not any(report[k] for k in ("missing_keys", "unexpected_keys"))
  for name, x in encoder.state_dict().items():
    assert torch.equal(back.state_dict()[name], x), name
  again, found = pretrained.load(out)
  assert again == module
  equal(found, params)
  # Byte for byte the same when it is written again, in place or elsewhere.
  before = content(out)
  for path in (out, tmp_path / "more"):
    pretrained.save(path, module, params, max_shard=max_shard)
    assert content(path) == before


def test_diffusers_opens_its_own_shards(network, tmp_path):
  network.save_pretrained(tmp_path / "theirs")
  module, params = pretrained.load(tmp_path / "theirs", dtype=jnp.bfloat16)
  pretrained.save(tmp_path / "ours", module, params, max_shard=2000)
  assert len(list((tmp_path / "ours").glob("diffusion_pytorch_model-*"))) > 2
  back = type(network).from_pretrained(tmp_path / "ours", dtype=torch.bfloat16)
  for name, x in network.state_dict().items():
    assert torch.equal(back.state_dict()[name], x.to(torch.bfloat16)), name


def test_the_state_dict_of_a_torch_module_is_taken_as_it_is(encoder, theirs):
  module, wanted = pretrained.load(theirs)
  equal(pretrained.from_state_dict(module, encoder.state_dict()), wanted)
  half = {k: torch.nn.Parameter(x.bfloat16()) for k, x in encoder.state_dict().items()}
  near = functools.partial(np.testing.assert_allclose, rtol=2**-8)
  jax.tree.map(near, pretrained.from_state_dict(module, half), wanted)
