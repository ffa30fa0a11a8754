"""Tiles: what diffusers makes of them, and that they differ from the whole at seams."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import repeat

from tests.support import drawn
from vdm_jax.autoencoders import kl_image, tiling

WHOLE = kl_image.KLImage(
  channels=(8, 16), layers_per_block=1, groups=4, latent_channels=3, sample_size=16
)


def tiled(run, x, **options):
  """(`run` of x by tiles, `run` of x)."""
  both = jax.jit(lambda x: (tiling.map_tiles(run, x, **options), run(x)))
  return map(np.asarray, both(x))


def test_tiles_of_local_layers_differ_from_the_whole_at_seams_alone():
  def box(x):
    """Sums of 3 x 3 pixels, each pixel of them twice along each axis."""
    size, strides = (1, 3, 3, 1), (1, 1, 1, 1)
    sums = jax.lax.reduce_window(x, 0.0, jax.lax.add, size, strides, "SAME")
    return repeat(sums, "n h w c -> n (h p) (w q) c", p=2, q=2)

  x = drawn.normal(2, 11, 17, 4)
  parts, whole = tiled(box, x, sides=(8, 16), overlap_share=0.25)
  differs = np.abs(parts - whole).max(axis=(0, 3)) > 1e-4
  # A tile starts every 12 pixels of the output; 4 of them are blended.
  rows, columns = (np.arange(n) for n in differs.shape)
  seam = lambda i: (i >= 12) & (i % 12 < 4)
  seams = seam(rows)[:, None] | seam(columns)
  assert not differs[~seams].any()
  assert differs[12:16].any() and differs[:, 12:16].any() and differs[:, 24:28].any()


def test_a_tile_fades_in_over_the_end_of_the_one_before():
  place = np.arange(12, dtype="f")
  x = (100 * place[:, None] + place)[None, :, :, None]
  mean = lambda tile: jnp.broadcast_to(tile.mean((1, 2), keepdims=True), tile.shape)
  parts, _ = tiled(mean, x, sides=(8, 8), overlap_share=0.25)
  # Places 0 to 7 have the mean 3.5, places 6 to 11 the mean 8.5.
  expected = np.array([3.5] * 7 + [6.0] + [8.5] * 4)
  upper, lower = parts[0, :6, :, 0], parts[0, 8:, :, 0]
  np.testing.assert_allclose(upper, [350 + expected] * 6, rtol=1e-6)
  np.testing.assert_allclose(lower, [850 + expected] * 4, rtol=1e-6)
  np.testing.assert_allclose(parts[0, :, 8, 0], 100 * expected + 8.5, rtol=1e-6)


def test_tiles_of_single_pixels_are_the_whole():
  x = drawn.normal(1, 9, 11, 2)
  parts, whole = tiled(jnp.tanh, x, sides=(8, 8), overlap_share=0.5)
  np.testing.assert_allclose(parts, whole, atol=1e-6)


def test_overlaps_of_parts_of_pixels_are_refused():
  with pytest.raises(ValueError, match="tile=6 with overlap=0.25 shares 1.5 latent"):
    dataclasses.replace(WHOLE, tile=6)
  with pytest.raises(ValueError, match="from 0 to below 1"):
    dataclasses.replace(WHOLE, tile=4, overlap=1.0)
