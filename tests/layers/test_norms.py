"""Layer normalisation is exact in float32 and its modulation starts as nothing."""

import jax
import jax.numpy as jnp
import numpy as np

from vdm_jax.layers import norms


def test_layer_norm_has_mean_zero_and_variance_one_far_from_zero():
  x = np.random.default_rng(0).standard_normal((3, 64)).astype(np.float32) + 1000.0
  out = np.asarray(jax.jit(norms.layer_norm)(x), np.float64)
  # A mean of numbers near 1000 is known to 1000 float32 steps, and no better.
  step = np.finfo(np.float32).eps
  np.testing.assert_allclose(out.mean(-1), 0.0, atol=1000 * step)
  np.testing.assert_allclose(out.std(-1), 1.0, atol=1e-5)
  half = x.astype(jnp.bfloat16)
  assert jax.eval_shape(norms.layer_norm, half).dtype == jnp.float32


def test_modulation_is_affine_and_zero_is_the_identity():
  x, shift, scale = np.random.default_rng(0).standard_normal((3, 2, 8))
  x = x.astype(np.float32)
  modulated = jax.jit(norms.modulated_norm)
  normed, zeros = np.asarray(jax.jit(norms.layer_norm)(x)), np.zeros_like(shift)
  np.testing.assert_array_equal(modulated(x, zeros, zeros), normed)
  out = modulated(x, shift, scale)
  np.testing.assert_allclose(out, normed * (1 + scale) + shift, atol=1e-6)
  x16 = x.astype(jnp.bfloat16)
  assert jax.eval_shape(modulated, x16, shift, scale).dtype == jnp.bfloat16


def test_forward_and_backward_derivatives_agree():
  x, v = np.random.default_rng(0).standard_normal((2, 8)).astype(np.float32)
  f = lambda x: jnp.sum(jnp.sin(norms.modulated_norm(x, 0.3, 0.2)))
  both = jax.jit(lambda x, v: (jax.jvp(f, (x,), (v,))[1], jax.grad(f)(x) @ v))
  np.testing.assert_allclose(*both(x, v), rtol=1e-4, atol=1e-6)
