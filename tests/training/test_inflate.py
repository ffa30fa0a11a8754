"""A larger network starts from what a smaller one has learnt, and says what misfits."""

import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.training import inflate


@pytest.fixture
def learnt(monkeypatch):
  """Parts of a checkpoint, by name."""
  parts = {
    "ema": {"conv": {"kernel": np.ones((3, 3, 2, 4), np.float32)}},
    "frozen": {"out": {"bias": np.full(4, 2.0, np.float32)}},
  }
  read = lambda folder, part: parts[part]
  monkeypatch.setattr(inflate.checkpoint, "restore_part", read)
  return parts


def params(inputs=2):
  return {
    "conv": {"kernel": jnp.zeros((3, 3, inputs, 4))},
    "out": {"bias": jnp.zeros(4)},
    "temporal": {"kernel": jnp.full((2, 2), 7.0)},
  }


def test_namesakes_are_taken_over_and_the_rest_stays(learnt):
  out = inflate.inflate(params(), folder="x", parts=("frozen", "ema"))
  np.testing.assert_array_equal(out["conv"]["kernel"], 1.0)
  np.testing.assert_array_equal(out["out"]["bias"], 2.0)
  np.testing.assert_array_equal(out["temporal"]["kernel"], 7.0)
  only = inflate.inflate(params(), folder="x")
  np.testing.assert_array_equal(only["out"]["bias"], 0.0)


def test_more_inputs_come_last_and_start_at_zero(learnt):
  kernel = inflate.inflate(params(inputs=5), folder="x")["conv"]["kernel"]
  np.testing.assert_array_equal(kernel[:, :, :2], 1.0)
  np.testing.assert_array_equal(kernel[:, :, 2:], 0.0)


def test_they_may_stand_below_a_name(learnt):
  out = inflate.inflate({"base": params(), "lora": {}}, folder="x", prefix="base")
  np.testing.assert_array_equal(out["base"]["conv"]["kernel"], 1.0)


def test_all_that_does_not_fit_is_named(learnt):
  other = {"conv": {"kernel": jnp.zeros((1, 3, 2, 4))}}
  with pytest.raises(ValueError, match="out/bias is not in the larger") as error:
    inflate.inflate(other, folder="x", parts=("frozen", "ema"))
  message = "conv/kernel has shape (3, 3, 2, 4), which (1, 3, 2, 4) cannot hold"
  assert message in str(error.value)
  with pytest.raises(ValueError, match="cannot hold"):  # fewer inputs
    inflate.inflate(params(inputs=1), folder="x")
