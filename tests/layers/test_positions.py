"""Fixed positions in closed form."""

import numpy as np
import pytest

from vdm_jax.layers import positions


def test_sincos_is_sines_then_cosines():
  table = positions.sincos([0, 1, 5], 6)
  assert table.shape == (3, 6) and table.dtype == np.float32
  np.testing.assert_array_equal(table[0], [0, 0, 0, 1, 1, 1])
  angles = 5 * 10_000.0 ** -(np.arange(3) / 3)
  wanted = np.concatenate([np.sin(angles), np.cos(angles)])
  np.testing.assert_allclose(table[2], wanted, atol=1e-7)


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
