"""Fixed positions in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.layers import positions


def test_sincos_is_sines_then_cosines():
  table = positions.sincos([0, 1, 5], 6)
  assert table.shape == (3, 6) and table.dtype == np.float32
  np.testing.assert_array_equal(table[0], [0, 0, 0, 1, 1, 1])
  angles = 5 * 10_000.0 ** -(np.arange(3) / 3)
  expected = np.concatenate([np.sin(angles), np.cos(angles)])
  np.testing.assert_allclose(table[2], expected, atol=1e-7)


def test_a_grid_tells_the_column_first():
  table = positions.sincos_grid(2, 3, 8).reshape(2, 3, 8)
  np.testing.assert_array_equal(table[0, :, :4], positions.sincos(range(3), 4))
  np.testing.assert_array_equal(table[:, 0, 4:], positions.sincos(range(2), 4))
  np.testing.assert_array_equal(table[0, :, :4], table[1, :, :4])
  assert len(np.unique(table.reshape(6, 8), axis=0)) == 6


def test_widths_that_do_not_divide_are_refused():
  with pytest.raises(ValueError, match="even width, not 5"):
    positions.sincos([0], 5)
  with pytest.raises(ValueError, match="divisible by 4, not 6"):
    positions.sincos_grid(1, 1, 6)


def test_a_spread_grid_covers_the_same_places_in_any_size():
  table = positions.sincos_grid(2, 3, 8, span=6).reshape(2, 3, 8)
  np.testing.assert_array_equal(table[0, :, :4], positions.sincos([0, 2, 4], 4))
  np.testing.assert_array_equal(table[:, 0, 4:], positions.sincos([0, 3], 4))
  plain = positions.sincos_grid(4, 4, 8)
  np.testing.assert_array_equal(positions.sincos_grid(4, 4, 8, span=4), plain)


def test_traced_positions_are_the_table():
  places = np.array([[0, 3, 900], [2.5, 1, 0]])
  out = jax.jit(lambda p: positions.sincos_traced(p, 6))(places)
  expected = [positions.sincos(row, 6) for row in places]
  np.testing.assert_allclose(out, expected, atol=2e-4)  # 6e-8 * 900 radians and more
  assert out.dtype == np.float32


def test_rotation_keeps_lengths_and_tells_the_distance_only():
  rng = np.random.default_rng(0)
  q, k = rng.standard_normal((2, 1, 3, 2, 8)).astype(np.float32)
  run = jax.jit(positions.apply_rotary)
  rotate = lambda *args: np.asarray(run(*args))
  places = np.array([[0.0, 2.0, 7.0]])
  product = lambda a, b: np.einsum("blnd,bmnd->bnlm", a, b)
  scores = product(rotate(q, places), rotate(k, places))
  later = product(rotate(q, places + 40), rotate(k, places + 40))
  np.testing.assert_allclose(scores, later, atol=1e-4)
  farther = product(rotate(q, 2 * places), rotate(k, 2 * places))
  assert np.abs(scores - farther).max() > 0.1
  lengths = (np.linalg.norm(x, axis=-1) for x in (rotate(q, places), q))
  np.testing.assert_allclose(*lengths, rtol=1e-5)
  np.testing.assert_array_equal(rotate(q, 0 * places), q)
  # The first two features are one pair and turn by one radian a place.
  x, y = q[0, 1, 0, :2]
  turned = [x * np.cos(2) - y * np.sin(2), x * np.sin(2) + y * np.cos(2)]
  np.testing.assert_allclose(rotate(q, places)[0, 1, 0, :2], turned, rtol=1e-5)


def test_rotation_computes_in_float32_and_answers_in_its_input():
  x = np.ones((1, 2, 1, 4), jnp.bfloat16)
  out = jax.jit(positions.apply_rotary)(x, np.array([[0, 1001]]))
  assert out.dtype == jnp.bfloat16
  expected = np.cos(1001.0) - np.sin(1001.0)
  np.testing.assert_allclose(np.float32(out)[0, 1, 0, 0], expected, atol=1e-2)
