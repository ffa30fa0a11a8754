"""The Haar transform is an orthonormal change of basis; what its distance weighs."""

import jax
import numpy as np
import pytest

from tests.support import drawn
from vdm_jax.metrics import wavelets

haar = jax.jit(wavelets.haar)
distance = jax.jit(wavelets.distance, static_argnames=("levels", "softness"))


def test_transform_reconstructs_and_keeps_energy():
  x = drawn.normal(2, 3, 6, 8, 5)  # any leading axes
  low, details = haar(x)
  assert low.shape == (2, 3, 3, 4, 5) and details.shape == (2, 3, 3, 4, 3, 5)
  np.testing.assert_allclose(jax.jit(wavelets.inverse_haar)(low, details), x, atol=1e-6)
  energy = lambda x: np.square(np.asarray(x, np.float64)).sum()
  np.testing.assert_allclose(energy(low) + energy(details), energy(x), rtol=1e-5)


def test_details_are_the_directions_they_say():
  step = np.array([-1.0, 1.0], np.float32)
  along_width = np.tile(step[None, :], (2, 2))
  along_height = np.tile(step[:, None], (1, 4))
  for i, image in enumerate((along_width, along_height, along_width * along_height)):
    low, details = haar(image[..., None])  # [2, 4, 1]
    np.testing.assert_array_equal(low, 0.0)
    assert np.array_equal(np.nonzero(np.abs(details).sum((0, 1, 3)))[0], [i])


def test_distance_of_a_flat_difference_is_the_difference():
  x = drawn.normal(3, 16, 8, 2)
  offset = np.array([0.0, 0.3, -0.7], np.float32)[:, None, None, None]
  np.testing.assert_allclose(distance(None, x, x + offset), [0.0, 0.3, 0.7], atol=1e-5)


def test_distance_is_each_examples_own_and_symmetric():
  x, y = drawn.normal(2, 3, 16, 8, 2)
  both = np.asarray(distance(None, x, y))
  np.testing.assert_allclose(both, distance(None, y, x), rtol=1e-6)
  x[0] = y[2] = 0.0
  edited = np.asarray(distance(None, x, y))
  np.testing.assert_allclose(edited[1], both[1], rtol=1e-6)
  assert not np.isclose(edited[::2], both[::2]).any()


def test_distance_of_an_edge_is_its_one_coefficient():
  """One direction of three answers: of the finest level, or of the coarsest."""
  rows, columns = np.indices((8, 8))
  board = np.where((rows + columns) % 2, 0.5, -0.5).astype(np.float32)
  halves = np.where(columns < 4, 0.5, -0.5).astype(np.float32)
  images = np.stack([board, halves])[..., None]
  np.testing.assert_allclose(distance(None, images, 0 * images), 0.5 / 3, rtol=1e-5)
  for levels, want in ((1, [0.5 / 3, 0.5]), (2, [0.5 / 3, 0.5])):
    near = distance(None, images, 0 * images, levels=levels)
    np.testing.assert_allclose(near, want, rtol=1e-5)


@pytest.mark.parametrize("softness", [0.0, 0.3, 1.0])
def test_charbonnier_is_quadratic_near_zero_and_linear_far_away(softness):
  small, large = 0.02, 1e3
  x = np.array([small, large], np.float32)
  near, far = jax.jit(wavelets.charbonnier, static_argnums=1)(x, softness)
  want = small**2 / (2 * softness) if softness else small
  np.testing.assert_allclose(near, want, rtol=1e-2)
  np.testing.assert_allclose(far, large - softness, rtol=1e-5)
  same = drawn.normal(1, 8, 8, 1)
  slope = jax.grad(lambda y: distance(None, same, y, softness=softness).sum())(same)
  assert np.isfinite(slope).all()


def test_sizes_without_enough_levels_are_refused():
  with pytest.raises(ValueError, match="12 x 16 pixels have no 3 Haar levels.*8"):
    wavelets.distance(None, drawn.normal(1, 12, 16, 3), drawn.normal(1, 12, 16, 3))
  with pytest.raises(ValueError, match="5 x 4 pixels have no Haar level"):
    wavelets.haar(drawn.normal(1, 5, 4, 3))
