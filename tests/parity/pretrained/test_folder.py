"""Folders of published components: opened whole or not at all, placed, written."""

import functools

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from tests.parity import pipelines
from tests.support import drawn
from tests.support.published.folder import RULES, content, equal
from vdm_jax import pretrained, sharding
from vdm_jax.conditioning import Conditioning
from vdm_jax.models.transformer import video_dit
from vdm_jax.pretrained.formats import chunks

T5 = dict(d_model=8, d_kv=4, d_ff=6, num_layers=3, num_heads=2, vocab_size=9)
DIT = dict(num_attention_heads=3, attention_head_dim=4, num_layers=1, in_channels=4)
DIT |= dict(out_channels=8, sample_size=6, num_embeds_ada_norm=3)


def t5(**changes):
  config = transformers.T5Config(**T5 | changes)
  return pipelines.fill(transformers.T5EncoderModel(config))


@pytest.fixture(scope="module")
def encoder():
  return t5(feed_forward_proj="gated-gelu")


@pytest.fixture(scope="module")
def network():
  return pipelines.fill(diffusers.DiTTransformer2DModel(**DIT))


@pytest.mark.parametrize("limit", [1, 100, chunks.LIMIT])
@pytest.mark.parametrize("library", ["transformers", "diffusers"])
@pytest.mark.parametrize(
  "form", ["one file", "shards", "variant", "shards of a variant", ".bin", "the file"]
)
def test_all_forms_open_as_the_same(
  request, tmp_path, monkeypatch, library, form, limit
):
  monkeypatch.setattr(chunks, "LIMIT", limit)
  name = {"transformers": "encoder", "diffusers": "network"}[library]
  original, path = request.getfixturevalue(name), tmp_path
  size = "1KB" if "shards" in form else "1GB"
  original.save_pretrained(
    path, max_shard_size=size, variant="fp16" if "variant" in form else None
  )
  weights = [f for f in path.iterdir() if "safetensors" in f.name]
  assert any("-of-" in f.name for f in weights) == ("shards" in form)
  assert all(("fp16" in f.name) == ("variant" in form) for f in weights)
  if form == ".bin":
    weights[0].unlink()
    torch.save(original.state_dict(), weights[0].with_suffix(".bin"))
    if library == "transformers":
      weights[0].with_suffix(".bin").rename(path / "pytorch_model.bin")
  module, params = pretrained.load(weights[0] if form == "the file" else path)
  assert all(isinstance(x, jax.Array) for x in jax.tree.leaves(params))
  state = {k: v.numpy() for k, v in original.state_dict().items()}
  equal(params, pretrained.from_state_dict(module, state))


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


@pytest.fixture(scope="module", params=[3, 0], ids=["classes", "unconditional"])
def upstream(request):
  """(module, params, state dict): a small Latte with upstream's names and tables."""
  module = video_dit.VideoDiT(
    out_channels=8,
    width=384,
    num_heads=6,
    depth=2,
    num_classes=request.param,
    mlp_ratio=0.25,
    num_frames=4,
  )
  label = {"label": np.zeros(1, int)} if request.param else {}
  args = jnp.zeros((1, 4, 8, 8, 4)), jnp.zeros(1), Conditioning(vectors=label)
  params = drawn.params(module, *args, seed=0)
  return module, params, pretrained.to_state_dict(module, params, size=(4, 8, 8))


@pytest.mark.parametrize(
  "wrap",
  [
    lambda ema, model: {"ema": ema, "model": model},
    lambda ema, model: {"model": model, "ema": ema, "opt": {"state": {}}, "step": 3},
    lambda ema, model: {"model": ema},
    lambda ema, model: {"ema": {f"module.{k}": x for k, x in ema.items()}},
    lambda ema, model: {f"module.{k}": x for k, x in ema.items()},
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
  expected = jax.tree.map(lambda x: x.astype(np.float16), params) if half else params
  for given in (None, module):
    found, loaded = pretrained.load(path, module=given)
    assert found == module
    equal(loaded, expected)


def test_a_file_of_unknown_names_says_so(tmp_path):
  torch.save({"ema": {"x.weight": torch.ones(2)}}, tmp_path / "x.pt")
  with pytest.raises(ValueError, match="no config.json beside it and its 1 names"):
    pretrained.load(tmp_path / "x.pt")


def test_axes_that_do_not_divide_are_whole(tmp_path):
  t5(d_model=7, d_ff=5).save_pretrained(tmp_path)
  mesh = sharding.make_mesh(dict(data=1, fsdp=2, tensor=1))
  _, expected = pretrained.load(tmp_path)
  _, params = pretrained.load(tmp_path, mesh=mesh, rules=RULES)
  equal(params, expected)
  assert all(x.sharding.is_fully_replicated for x in jax.tree.leaves(params))


def test_autoencoders_are_split_by_size(tmp_path, monkeypatch):
  monkeypatch.setattr(sharding, "MIN_BYTES", 1)
  theirs = diffusers.AutoencoderKL(block_out_channels=(8,), norm_num_groups=4)
  theirs.save_pretrained(tmp_path)
  _, expected = pretrained.load(tmp_path)
  mesh = sharding.make_mesh(dict(fsdp=2))
  _, params = pretrained.load(tmp_path, mesh=mesh)
  equal(params, expected)


@pytest.mark.parametrize("max_shard", [10**9, 700])
@pytest.mark.parametrize("axis", [None, "fsdp", "tensor"])
@pytest.mark.parametrize(
  "name, dtype", [("encoder", "float32"), ("network", "bfloat16")]
)
def test_what_is_written_the_original_opens(
  request, tmp_path, name, dtype, axis, max_shard
):
  original, out = request.getfixturevalue(name), tmp_path / "deep" / "ours"
  original.save_pretrained(tmp_path / "theirs")
  options = dict(
    mesh=axis and sharding.make_mesh(dict(data=1, fsdp=1, tensor=1) | {axis: 2})
  )
  options |= dict(rules=RULES, dtype=dtype)
  module, params = pretrained.load(tmp_path / "theirs", **options)
  pretrained.save(out, module, params, max_shard=max_shard)
  assert bool(list(out.glob("*-of-*"))) == (max_shard == 700)
  dtype = getattr(torch, dtype)
  back, report = type(original).from_pretrained(
    out, output_loading_info=True, dtype=dtype
  )
  assert not any(report[k] for k in ("missing_keys", "unexpected_keys"))
  for key, x in original.state_dict().items():
    assert torch.equal(back.state_dict()[key], x.to(dtype)), key
  again, found = pretrained.load(out, dtype=options["dtype"])
  assert again == module
  equal(found, params)
  # Byte for byte the same when it is written again, in place or elsewhere.
  before = content(out)
  for path in (out, tmp_path / "more"):
    pretrained.save(path, module, params, max_shard=max_shard)
    assert content(path) == before


def test_the_state_dict_of_a_torch_module_is_taken_as_it_is(encoder, tmp_path):
  encoder.save_pretrained(tmp_path)
  module, expected = pretrained.load(tmp_path)
  equal(pretrained.from_state_dict(module, encoder.state_dict()), expected)
  half = {k: torch.nn.Parameter(x.bfloat16()) for k, x in encoder.state_dict().items()}
  near = functools.partial(np.testing.assert_allclose, rtol=2**-8)
  jax.tree.map(near, pretrained.from_state_dict(module, half), expected)
