"""Moments, their sample and divergence, and the statistics of latents."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.autoencoders import base


def random_moments(seed, shape=(4, 3, 6, 5, 2)):
  rng = np.random.default_rng(seed)
  mean = [5.0, -2.0] + rng.standard_normal(shape) * [3.0, 0.1]
  logvar = rng.uniform(-4.0, 1.0, shape)
  return base.Moments(jnp.asarray(mean, jnp.float32), jnp.asarray(logvar, jnp.float32))


def test_divergence_is_zero_at_the_prior_and_known_elsewhere():
  prior = base.Moments(jnp.zeros((1, 1, 1, 1, 2)), jnp.zeros((1, 1, 1, 1, 2)))
  assert float(base.elementwise_kl(prior).sum()) == 0.0
  away = base.Moments(jnp.full((1,), 2.0), jnp.full((1,), np.log(0.25)))
  want = 0.5 * (4.0 + 0.25 - 1.0 + np.log(4.0))
  np.testing.assert_allclose(base.elementwise_kl(away), want, rtol=1e-6)


def test_sample_has_the_moments():
  moments = base.Moments(jnp.full((20_000,), 1.5), jnp.full((20_000,), np.log(0.49)))
  z = base.sample_from_moments(moments, jax.random.key(0))
  np.testing.assert_allclose([z.mean(), z.std()], [1.5, 0.7], atol=0.02)
  np.testing.assert_array_equal(base.sample_from_moments(moments, None), moments.mean)


def test_measured_statistics_make_samples_unit():
  parts = [random_moments(seed) for seed in range(3)]
  stats = base.measure_statistics(iter(parts))
  keys = jax.random.split(jax.random.key(0), 3)
  z = [
    base.normalize(stats, base.sample_from_moments(m, k))
    for m, k in zip(parts, keys, strict=True)
  ]
  z = np.stack(z)
  np.testing.assert_allclose(z.mean((0, 1, 2, 3, 4)), 0.0, atol=0.05)
  np.testing.assert_allclose(z.std((0, 1, 2, 3, 4)), 1.0, atol=0.05)
  raw = np.stack([base.sample_from_moments(m, None) for m in parts])
  assert np.abs(raw.mean((0, 1, 2, 3, 4))).min() > 1.0  # they were not unit before


def test_measurement_does_not_depend_on_how_batches_are_cut():
  moments = random_moments(0)
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


def test_statistics_get_no_gradient_and_cancel():
  stats = {"shift": jnp.array([2.0]), "scale": jnp.array([3.0])}
  z = jnp.linspace(-1.0, 1.0, 5)[:, None]

  def fn(stats, z):
    return base.denormalize(stats, jnp.sin(base.normalize(stats, z))).sum()

  to_stats, to_z = jax.grad(fn, (0, 1))(stats, z)
  assert not np.any(jax.tree.leaves(to_stats))
  assert np.all(np.abs(to_z) > 0.1)
  np.testing.assert_allclose(
    base.denormalize(stats, base.normalize(stats, z)), z, atol=1e-6
  )
