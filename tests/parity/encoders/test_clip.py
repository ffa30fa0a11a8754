"""CLIP's penultimate states. Its outputs: tests/support/published/rows_encoders.py."""

import jax
import numpy as np
import pytest
import torch
import transformers

from tests.parity import originals
from vdm_jax import pretrained

CONFIG = dict(
  hidden_size=12, num_hidden_layers=3, num_attention_heads=2, intermediate_size=20
)
TEXT = dict(vocab_size=40, max_position_embeddings=11, projection_dim=5)
TEXT |= dict(eos_token_id=39)


def opened(cls, folder, **config):
  """(their model, module, params) through a folder."""
  theirs = originals.filled(cls(cls.config_class(**CONFIG | config)), 0)
  theirs.save_pretrained(folder)
  return theirs, *pretrained.load(folder)


def apply(module, params, x, method=None):
  with jax.default_matmul_precision("highest"):
    call = jax.jit(lambda params, x: module.apply(params, x, method=method))
    return np.asarray(call(params, x))


@pytest.mark.parametrize("skip", [1, 2])
def test_penultimate_states_with_and_without_the_norm(tmp_path, skip):
  cls = transformers.CLIPTextModelWithProjection
  theirs, module, params = opened(cls, tmp_path, **TEXT)
  ids = np.random.default_rng(1).integers(0, 39, (2, 9))
  ids[0, 6:], ids[1, 3:] = 39, 39
  with torch.no_grad():
    out = theirs(torch.from_numpy(ids), output_hidden_states=True)
    raw = out.hidden_states[-1 - skip]
    normed = theirs.text_model.final_layer_norm(raw)
  early = module.clone(skip=skip)
  bare = early.clone(norm=False)
  np.testing.assert_allclose(apply(early, params, ids), normed.numpy(), atol=2e-5)
  np.testing.assert_allclose(apply(bare, params, ids), raw.numpy(), atol=2e-5)
  assert np.abs(apply(module, params, ids) - normed.numpy()).max() > 1e-2
  pooled = apply(early, params, ids, "pooled")
  np.testing.assert_allclose(pooled, out.text_embeds.numpy(), atol=2e-5)


def test_penultimate_tokens_of_pictures(tmp_path):
  cls = transformers.CLIPVisionModel
  theirs, module, params = opened(cls, tmp_path, image_size=11, patch_size=3)
  pixels = np.random.default_rng(0).standard_normal((2, 11, 11, 3)).astype(np.float32)
  with torch.no_grad():
    x = torch.from_numpy(np.moveaxis(pixels, -1, 1).copy())
    *_, before, last = theirs(x, output_hidden_states=True).hidden_states
  early = module.clone(skip=1)
  np.testing.assert_allclose(apply(early, params, pixels, "tokens"), before, atol=2e-5)
  np.testing.assert_allclose(apply(module, params, pixels, "tokens"), last, atol=2e-5)
  assert (before - last).abs().max() > 1e-2
