"""CLIP's text encoder: causality, penultimate states, both published layouts."""

import jax
import numpy as np
import pytest
import safetensors.torch
import torch
import transformers

from tests.support import golden_files
from vdm_jax import pretrained

CONFIG = dict(
  hidden_size=12,
  num_hidden_layers=3,
  num_attention_heads=2,
  intermediate_size=20,
  vocab_size=40,
  max_position_embeddings=11,
  projection_dim=5,
  eos_token_id=39,
)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
  """(their model, module, params) through a folder."""
  torch.set_num_threads(1)
  folder = tmp_path_factory.mktemp("clip")
  config = transformers.CLIPTextConfig(**CONFIG)
  theirs = transformers.CLIPTextModelWithProjection(config).eval()
  with torch.no_grad():
    for name, x in theirs.named_parameters():
      x.copy_(torch.from_numpy(golden_files.fill(name, tuple(x.shape), 0)))
  theirs.save_pretrained(folder)
  return theirs, *pretrained.load(folder)


@pytest.fixture(scope="module")
def ids():
  ids = np.random.default_rng(1).integers(0, 39, (2, 9))
  ids[0, 6:], ids[1, 3:] = 39, 39
  return ids


def apply(module, params, *args, method=None):
  with jax.default_matmul_precision("highest"):
    call = jax.jit(lambda params, *args: module.apply(params, *args, method=method))
    return np.asarray(call(params, *args))


def test_no_token_reads_one_behind_it(clip, ids):
  _, module, params = clip
  out = apply(module, params, ids)
  changed = ids.copy()
  changed[:, 5:] = 3
  other = apply(module, params, changed)
  np.testing.assert_array_equal(out[:, :5], other[:, :5])
  assert (np.abs(out[:, 5:] - other[:, 5:]).max(axis=-1) > 1e-3).all()


@pytest.mark.parametrize("skip", [1, 2])
def test_penultimate_states_with_and_without_the_norm(clip, ids, skip):
  theirs, module, params = clip
  with torch.no_grad():
    told = theirs(torch.from_numpy(ids), output_hidden_states=True)
    raw = told.hidden_states[-1 - skip]
    normed = theirs.text_model.final_layer_norm(raw)
  early = module.clone(skip=skip)
  bare = early.clone(norm=False)
  np.testing.assert_allclose(apply(early, params, ids), normed.numpy(), atol=2e-5)
  np.testing.assert_allclose(apply(bare, params, ids), raw.numpy(), atol=2e-5)
  assert np.abs(apply(module, params, ids) - normed.numpy()).max() > 1e-2
  pooled = apply(early, params, ids, method="pooled")
  np.testing.assert_allclose(pooled, told.text_embeds.numpy(), atol=2e-5)


@pytest.mark.parametrize("prefixed", [False, True])
def test_files_with_and_without_the_prefix_open(ids, tmp_path, prefixed):
  """Those of Stable Diffusion have it, and a buffer of positions too."""
  theirs = transformers.CLIPTextModel(transformers.CLIPTextConfig(**CONFIG)).eval()
  theirs.save_pretrained(tmp_path)
  file = tmp_path / "model.safetensors"
  state = safetensors.torch.load_file(file)
  state = {k.removeprefix("text_model."): v for k, v in state.items()}
  state["embeddings.position_ids"] = torch.arange(11)[None]
  prefix = "text_model." if prefixed else ""
  safetensors.torch.save_file(
    {prefix + k: v for k, v in state.items()}, file, {"format": "pt"}
  )
  module, params = pretrained.load(tmp_path)
  assert module.projection is None
  with torch.no_grad():
    wanted = theirs(torch.from_numpy(ids))
  out = apply(module, params, ids)
  np.testing.assert_allclose(out, wanted.last_hidden_state.numpy(), atol=1e-4)
  pooled = apply(module, params, ids, method="pooled")
  np.testing.assert_allclose(pooled, wanted.pooler_output.numpy(), atol=1e-4)
  assert all(
    k.startswith("text_model.") for k in pretrained.to_state_dict(module, params)
  )
