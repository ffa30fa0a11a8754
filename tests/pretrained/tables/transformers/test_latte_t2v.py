"""Checkpoints of LatteT2V: its names and size, and what else takes over weights."""

import re

import jax
import numpy as np
import pytest

from vdm_jax import pretrained
from vdm_jax.conditioners import conditioner
from vdm_jax.models.transformer import video_dit
from vdm_jax.pretrained.tables.transformers import basic_block

MODULE = video_dit.VideoDiT(
  out_channels=8, width=16, depth=4, num_heads=2, modulation="shared", text="cross"
)
NULL = "caption_projection.y_embedding"


@pytest.fixture(scope="module")
def weights():
  shapes = jax.tree.leaves(basic_block.abstract_params(MODULE, 4, 6))
  tree = jax.tree.structure(basic_block.abstract_params(MODULE, 4, 6))
  rng = np.random.default_rng(0)
  leaves = [rng.standard_normal(x.shape).astype(np.float32) for x in shapes]
  return pretrained.to_state_dict(
    MODULE, jax.tree.unflatten(tree, leaves), ignored={NULL: np.ones((5, 6))}
  )


def test_names_and_shapes_are_the_originals(weights):
  shapes = {key: value.shape for key, value in weights.items()}
  assert len(shapes) == 15 + 2 * (21 + 13) + 1
  assert shapes["transformer_blocks.1.attn2.to_v.weight"] == (16, 16)
  assert shapes["temporal_transformer_blocks.0.scale_shift_table"] == (6, 16)
  assert shapes["adaln_single.linear.weight"] == (96, 16)
  assert shapes["caption_projection.linear_1.weight"] == (16, 6)
  assert shapes["pos_embed.proj.weight"] == (16, 4, 2, 2)


def test_the_published_model_has_its_number_of_parameters():
  module = MODULE.clone(**video_dit.SIZES["XL"] | dict(depth=56))
  leaves = jax.tree.leaves(basic_block.abstract_params(module, 4, 4096))
  assert round(sum(leaf.size for leaf in leaves) / 1e6, 2) == 1057.25


def test_heads_keep_their_queries_keys_and_values(weights):
  blocks = pretrained.from_state_dict(MODULE, weights)["blocks"]
  kernel = blocks["spatial"]["attention"]["qkv"]["kernel"]  # [l, i, (head, q k v, dim)]
  heads = kernel.reshape(2, 16, 2, 3, 8)
  for i, name in enumerate(("to_q", "to_k", "to_v")):
    wanted = weights[f"transformer_blocks.1.attn1.{name}.weight"].T.reshape(16, 2, 8)
    np.testing.assert_array_equal(heads[1, :, :, i], wanted)


def test_what_nothing_reads_may_be_absent_and_is_written_when_given(weights):
  assert weights[NULL].shape == (5, 6)
  without = {k: x for k, x in weights.items() if k != NULL}
  params = pretrained.from_state_dict(MODULE, without)
  wanted = pretrained.from_state_dict(MODULE, {"model": without, "ema": weights})
  jax.tree.map(np.testing.assert_array_equal, params, wanted)
  assert NULL not in pretrained.to_state_dict(MODULE, params)
  with pytest.raises(ValueError, match="1 problems.*\n.*caption.bias is not of this"):
    pretrained.to_state_dict(MODULE, params, ignored={"caption.bias": np.ones(6)})


def test_its_null_text_is_a_conditioners(weights):
  tell = conditioner.Text(null=weights[NULL])
  batch = {"text": np.zeros((2, 5, 6), np.float32), "text_mask": np.ones((2, 5))}
  np.testing.assert_array_equal(tell(batch)[1].tokens["text"].values[1], weights[NULL])


def test_late_fusion_takes_over_the_weights_of_the_published_order(weights):
  wanted = pretrained.from_state_dict(MODULE, weights)
  got = pretrained.from_state_dict(MODULE.clone(fusion="late"), weights)
  jax.tree.map(np.testing.assert_array_equal, got, wanted)


@pytest.mark.parametrize(
  "fields",
  [
    dict(layout=("serial",)),
    dict(patch_time=2),
    dict(modulation="tokens"),
    dict(text="pooled"),
    dict(num_classes=3),
  ],
  ids=str,
)
def test_fields_that_no_published_weights_have_are_refused(weights, fields):
  ((name, value),) = fields.items()
  differing = re.escape(f"{name}={value!r}; supported: ")
  with pytest.raises(TypeError, match=f"with these fields:\n(.*\n)*.*{differing}"):
    pretrained.from_state_dict(MODULE.clone(**fields), weights)
