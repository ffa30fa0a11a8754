"""Checkpoints of LatteT2V: its names and size, and what else takes over weights."""

import re

import jax
import numpy as np
import pytest

from tests.support import drawn
from vdm_jax import pretrained
from vdm_jax.conditioners import conditioner
from vdm_jax.models.transformer import video_dit
from vdm_jax.pretrained.tables.transformers.latte_t2v import TABLE

MODULE = video_dit.VideoDiT(
  out_channels=8, width=16, depth=4, num_heads=2, modulation="shared", text="cross"
)
NULL = "caption_projection.y_embedding"


def abstract_params(module, text):
  """With 4 channels, and a text of that width."""
  weights = ("pos_embed.proj.weight", "caption_projection.linear_1.weight")
  widths = zip(weights, (4, text), strict=True)
  return TABLE.abstract_params(module, {name: (1, width) for name, width in widths})


@pytest.fixture(scope="module")
def weights():
  params = drawn.like(abstract_params(MODULE, 6), seed=0)
  return pretrained.to_state_dict(MODULE, params, ignored={NULL: np.ones((5, 6))})


def test_the_published_model_has_its_number_of_parameters():
  module = MODULE.clone(**video_dit.SIZES["XL"] | dict(depth=56))
  leaves = jax.tree.leaves(abstract_params(module, 4096))
  assert round(sum(leaf.size for leaf in leaves) / 1e6, 2) == 1057.25


def test_what_nothing_reads_may_be_absent_and_is_written_when_given(weights):
  assert weights[NULL].shape == (5, 6)
  without = {k: x for k, x in weights.items() if k != NULL}
  params = pretrained.from_state_dict(MODULE, without)
  expected = pretrained.from_state_dict(MODULE, {"model": without, "ema": weights})
  jax.tree.map(np.testing.assert_array_equal, params, expected)
  assert NULL not in pretrained.to_state_dict(MODULE, params)
  with pytest.raises(ValueError, match="1 problems.*\n.*caption.bias is not of this"):
    pretrained.to_state_dict(MODULE, params, ignored={"caption.bias": np.ones(6)})


def test_its_null_text_is_a_conditioners(weights):
  make = conditioner.Text(null=weights[NULL])
  batch = {"text": np.zeros((2, 5, 6), np.float32), "text_mask": np.ones((2, 5))}
  np.testing.assert_array_equal(make(batch)[1].tokens["text"].values[1], weights[NULL])


def test_late_fusion_takes_over_the_weights_of_the_published_order(weights):
  expected = pretrained.from_state_dict(MODULE, weights)
  got = pretrained.from_state_dict(MODULE.clone(fusion="late"), weights)
  jax.tree.map(np.testing.assert_array_equal, got, expected)


def test_fields_that_no_published_weights_have_are_refused(weights):
  for fields in (
    dict(layout=("serial",)),
    dict(patch_time=2),
    dict(modulation="tokens"),
    dict(text="pooled"),
    dict(num_classes=3),
  ):
    ((name, value),) = fields.items()
    differing = re.escape(f"{name}={value!r}; supported: ")
    with pytest.raises(TypeError, match=f"with these fields:\n(.*\n)*.*{differing}"):
      pretrained.from_state_dict(MODULE.clone(**fields), weights)
