"""Moments, their sample and divergence, and the statistics of latents.

What every autoencoder does with them is said in contracts/test_autoencoders.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.autoencoders import base


def test_divergence_is_zero_at_the_prior_and_known_elsewhere():
  prior = base.Moments(jnp.zeros((1, 1, 1, 1, 2)), jnp.zeros((1, 1, 1, 1, 2)))
  assert float(base.elementwise_kl(prior).sum()) == 0.0
  away = base.Moments(jnp.full((1,), 2.0), jnp.full((1,), np.log(0.25)))
  want = 0.5 * (4.0 + 0.25 - 1.0 + np.log(4.0))
  np.testing.assert_allclose(base.elementwise_kl(away), want, rtol=1e-6)


def test_measurement_does_not_depend_on_how_batches_are_cut():
  rng, shape = np.random.default_rng(0), (4, 3, 6, 5, 2)
  mean = [5.0, -2.0] + rng.standard_normal(shape) * [3.0, 0.1]
  moments = base.Moments(jnp.asarray(mean), jnp.asarray(rng.uniform(-4.0, 1.0, shape)))
  halves = [jax.tree.map(lambda x, i=i: x[i : i + 2], moments) for i in (0, 2)]
  whole, cut = base.measure_statistics([moments]), base.measure_statistics(halves)
  for name in ("shift", "scale"):
    np.testing.assert_allclose(whole[name], cut[name], rtol=1e-6)


def test_a_constant_channel_keeps_scale_one():
  flat = base.Moments(jnp.full((2, 1, 2, 2, 1), 3.0), jnp.full((2, 1, 2, 2, 1), -30.0))
  stats = base.measure_statistics([flat])
  np.testing.assert_allclose(stats["shift"], 3.0)
  np.testing.assert_allclose(stats["scale"], 1.0)


def test_nothing_to_measure_is_refused():
  with pytest.raises(ValueError, match="at least one batch"):
    base.measure_statistics([])
  bad = base.Moments(jnp.full((1, 1, 1, 1, 2), jnp.nan), jnp.zeros((1, 1, 1, 1, 2)))
  with pytest.raises(ValueError, match="Moments number 0 are not all finite"):
    base.measure_statistics([bad])
