"""The resampler of image tokens computes what VideoCrafter's does."""

import functools

import jax
import numpy as np
import pytest

from tests.support import golden_files, parity_table
from vdm_jax import pretrained
from vdm_jax.encoders import resampler
from vdm_jax.pretrained.tables.encoders.resampler import TABLE

ROW = "VideoCrafter 1, Resampler"
MODULE = resampler.Resampler(
  depth=2, width=48, num_heads=3, head_dim=16, embedding=40, queries=5, features=24
)


@pytest.fixture(scope="module")
def original():
  """(state dict, recorded arrays, state dict -> error in units of the tolerance)."""
  meta, arrays = golden_files.read("videocrafter1_resampler")
  wanted = arrays["out_tokens"]

  @jax.jit
  def apply(params):
    with jax.default_matmul_precision("highest"):
      return MODULE.apply(params, arrays["in_x"])

  def error(weights):
    out = np.asarray(apply(pretrained.from_state_dict(MODULE, weights)))
    assert out.shape == wanted.shape
    return np.abs(out - wanted).max() / (1e-4 * max(1.0, np.abs(wanted).max()))

  return golden_files.weights(meta), arrays, error


def test_the_tokens_are_the_originals(original, record_property):
  weights, _, error = original
  found = error(weights)
  assert found <= 1
  parity_table.note(record_property, ROW, error=float(1e-4 * found), bound=1e-4)


def test_one_changed_tensor_is_seen(original, record_property):
  weights, _, error = original
  for key in weights:
    found = error(weights | {key: np.roll(weights[key], 1, axis=-1)})
    assert found > 10, key
    parity_table.note(record_property, ROW, control=float(found))


def test_weights_come_back_bit_for_bit(original):
  weights, _, _ = original
  params = pretrained.from_state_dict(MODULE, weights)
  back = pretrained.to_state_dict(MODULE, params)
  assert back.keys() == weights.keys()
  for key, value in weights.items():
    np.testing.assert_array_equal(back[key], value, strict=True)


@pytest.mark.parametrize("prefix", ["image_proj_model.", "image_proj."])
def test_the_part_of_a_checkpoint_is_read_by_its_own_names(original, prefix):
  weights, _, error = original
  assert error({prefix + k: x for k, x in weights.items()}) <= 1


def test_every_fault_is_listed_in_one_error(original):
  weights, _, _ = original
  faulty = {k: x for k, x in weights.items() if k != "proj_out.bias"}
  faulty |= {"latents": np.zeros((1, 6, 48)), "layers.2.0.to_q.weight": np.zeros(1)}
  with pytest.raises(ValueError) as caught:
    pretrained.from_state_dict(MODULE, faulty)
  message = str(caught.value)
  assert "3 problems" in message and "proj_out.bias is missing" in message
  assert "latents has shape (1, 6, 48), expected (1, 5, 48)" in message
  assert "layers.2.0.to_q.weight is not of this model" in message


def test_the_published_size_has_the_originals_parameters():
  """VideoCrafter 1's: the defaults, by the shapes of its layers."""
  module = resampler.Resampler()
  count = sum(x.size for x in jax.tree.leaves(TABLE.abstract_params(module, {})))
  layer = 3 * 2 * 1024 + 4 * 1024 * 768 + 2 * 4 * 1024**2
  ends = 16 * 1024 + (1280 + 1) * 1024 + (1024 + 1) * 1024 + 2 * 1024
  assert count == 4 * layer + ends
  tokens = jax.ShapeDtypeStruct((2, 257, 1280), np.float32)
  init = functools.partial(module.init_with_output, jax.random.key(0))
  out, _ = jax.eval_shape(init, tokens)
  assert out.shape == (2, 16, 1024)


def test_tokens_of_another_width_are_refused():
  with pytest.raises(ValueError, match="E = 40"):
    MODULE.init(jax.random.key(0), np.zeros((1, 3, 41)))
