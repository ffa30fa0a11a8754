"""The Frechet distance against closed forms and scipy's general square root."""

import numpy as np
import pytest
import scipy.linalg

from tests.support.refusals import refused
from vdm_jax.metrics import frechet


def features(n, d, seed=0):
  rng = np.random.default_rng(seed)
  return rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + rng.normal(size=d)


def test_a_set_is_at_no_distance_from_itself():
  x = features(200, 12)
  assert frechet.distance(x, x) < 1e-8
  assert frechet.distance(x, x[::-1]) < 1e-8


@pytest.mark.parametrize("ddof", [0, 1])
def test_it_equals_the_general_formula(ddof):
  x, y = features(300, 8, 0), features(200, 8, 1)
  (m1, s1), (m2, s2) = (frechet.mean_and_covariance(a, ddof=ddof) for a in (x, y))
  root = scipy.linalg.sqrtm(s1 @ s2)
  want = np.square(m1 - m2).sum() + np.trace(s1 + s2 - 2 * root.real)
  np.testing.assert_allclose(frechet.distance(x, y, ddof=ddof), want, rtol=1e-9)
  # Negative control: the other divisor gives another number.
  other = frechet.distance(x, y, ddof=1 - ddof)
  assert abs(other - want) > 1e-4 * want


def test_float16_features_of_a_singular_covariance_stay_finite():
  x = features(5, 40).astype(np.float16)
  assert np.isfinite(frechet.distance(x, x[:4]))


def test_bad_features_are_refused():
  x = np.ones((4, 3))
  calls = {
    "N >= 2": lambda: frechet.distance(x[:1], x),
    "3 and 2": lambda: frechet.distance(x, x[:, :2]),
    "12 values": lambda: frechet.distance(np.nan * x, x),
  }
  refused(ValueError, calls)
