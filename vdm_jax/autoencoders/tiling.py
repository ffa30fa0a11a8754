"""Frames in overlapping tiles, joined by linear blending: memory of one tile at a time.

The tiles, the order of the blending and so the result are those of diffusers'
`AutoencoderKL.enable_tiling()`. Convolutions, group norms and attention stay within a
tile: the result is not that of the whole frame, and where only convolutions matter it
differs only in the overlaps.
"""

import jax
import jax.numpy as jnp


def check_tile(tile, overlap_share):
  """Raises a ValueError unless tiles of side `tile` can share `overlap_share` of it.

  tile >= 1, 0 <= overlap_share < 1, and their product is a whole number of latents.
  """
  shared = tile * overlap_share
  if tile < 1 or not 0 <= overlap_share < 1 or shared != int(shared):
    raise ValueError(
      f"tile={tile} with overlap={overlap_share} shares {shared} latent pixels with "
      "the next; take a tile of at least 1 and an overlap from 0 to below 1 whose "
      "product is a whole number."
    )


def map_tiles(run, x, *, sides, overlap_share):
  """`run` of x [N, H, W, C] by overlapping tiles, blended: [N, H b / a, W b / a, D].

  Where tiles overlap, one fades linearly into the next. Full tiles go through one
  compiled loop; those at the lower and right edges are smaller, each shape in a loop of
  its own. A frame that fits in a tile is not cut.

  Args:
    run: function, [N, h, w, C] -> [N, h b / a, w b / a, D].
    sides: (a, b), the side of a full, square tile in x and in its output, in pixels.
    overlap_share: of a side, common to neighbours; a * overlap_share is whole.
  """
  before, after = sides
  if max(x.shape[1:3]) <= before:
    return run(x)
  step, kept = (side - int(side * overlap_share) for side in sides)
  rows, columns = (range(0, size, step) for size in x.shape[1:3])

  tiles = _map_tiles(run, x, [(i, j) for i in rows for j in columns], before)
  for i in rows:
    for j in columns:
      # Above and left are already blended themselves: that is the original's order.
      if i:
        tiles[i, j] = _blend(tiles[i - step, j], tiles[i, j], after - kept, axis=1)
      if j:
        tiles[i, j] = _blend(tiles[i, j - step], tiles[i, j], after - kept, axis=2)
  cut = lambda tile: tile[:, :kept, :kept]
  rows = [jnp.concatenate([cut(tiles[i, j]) for j in columns], axis=2) for i in rows]
  return jnp.concatenate(rows, axis=1)


def _map_tiles(run, x, starts, side):
  """{(i, j): run(the tile that starts there)}, one after the other."""
  n, height, width, channels = x.shape
  shapes = {}
  for i, j in starts:
    shape = min(side, height - i), min(side, width - j)
    shapes.setdefault(shape, []).append((i, j))

  def of(shape):
    def one(start):
      return run(jax.lax.dynamic_slice(x, (0, *start, 0), (n, *shape, channels)))

    return one

  tiles = {}
  for shape, places in shapes.items():
    i, j = (jnp.asarray(axis) for axis in zip(*places, strict=True))
    tiles |= dict(zip(places, jax.lax.map(of(shape), (i, j)), strict=True))
  return tiles


def _blend(a, b, extent, axis):
  """b, whose first `extent` pixels along an axis fade in over the last ones of a."""
  extent = min(a.shape[axis], b.shape[axis], extent)
  weight = jnp.arange(extent, dtype=b.dtype) / max(extent, 1)
  weight = jnp.expand_dims(weight, [k for k in range(b.ndim) if k != axis])
  end = jax.lax.slice_in_dim(a, a.shape[axis] - extent, None, axis=axis)
  start = jax.lax.slice_in_dim(b, 0, extent, axis=axis)
  rest = jax.lax.slice_in_dim(b, extent, None, axis=axis)
  seam = end * (1 - weight) + start * weight
  return jnp.concatenate([seam, rest], axis=axis)
