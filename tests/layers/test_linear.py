"""A linear layer: the product, the names of its axes, the two dtypes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import errors

from vdm_jax.layers.linear import Linear


def test_linear_is_the_product_with_named_axes():
  x = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
  layer = Linear(5, ("embed", "mlp"))
  boxed = jax.device_get(jax.jit(layer.init)(jax.random.key(0), x))["params"]
  assert boxed["kernel"].names == ("embed", "mlp") and boxed["bias"].names == ("mlp",)
  kernel, bias = boxed["kernel"].value, np.arange(5.0)
  assert np.abs(kernel).max() <= np.sqrt(6 / (4 + 5)) and np.std(kernel) > 0.2  # xavier
  np.testing.assert_array_equal(boxed["bias"].value, np.zeros(5))
  out = jax.jit(layer.apply)({"params": {"kernel": kernel, "bias": bias}}, x)
  np.testing.assert_allclose(out, x @ kernel + bias, atol=1e-5)


def test_parameters_stay_float32_when_computing_in_bfloat16():
  layer = Linear(5, (None, "embed"), dtype=jnp.bfloat16)
  args = jax.random.key(0), np.ones((2, 4), np.float32)
  out, variables = jax.eval_shape(layer.init_with_output, *args)
  assert out.dtype == jnp.bfloat16
  assert variables["params"]["kernel"].value.dtype == jnp.float32


def test_a_parameter_of_another_shape_is_refused():
  params = {"kernel": np.zeros((3, 5)), "bias": np.zeros(5)}
  with pytest.raises(errors.ScopeParamShapeError, match='"kernel".*in "/"'):
    Linear(5, (None, None)).apply({"params": params}, np.zeros((2, 4)))
