"""A transformer block on tiles of its tokens, so that a CPU keeps them in its cache.

A CPU that computes one layer for all tokens before the next layer begins sends every
intermediate result to its memory and back. Accelerators get all tokens at once: their
compilers tile, and their memories are fast. What it gains: experiments/speed/README.md.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from vdm_jax.layers.cpu import blocking


def apply_tiled(call, block, x, per_frame, per_clip, *, attended, hidden, train=False):
  """call(block, x, per_frame, per_clip) [B, T, N, D]; on one CPU tile by tile.

  A tile is a few frames of a clip where attention stays inside frames, a few places
  where it goes along time, else a clip. Without a backward pass it is written over the
  tokens that it was made of.

  Args:
    call: (block, tokens, per_frame, per_clip) -> tokens of the same shape.
    block: linen module; all tiles share its parameters.
    x: tokens [B, T, N, D].
    per_frame: pytree of [B or 1, T or 1, ...].
    per_clip: pytree of [B or 1, ...].
    attended: which of the axes "frames" and "places" a tile must have whole.
    hidden: features of a token's widest intermediate result, in float32.
    train: whether a backward pass follows; only speed depends on it.
  """
  b, t, n, width = x.shape
  token = 4 * hidden
  small = b * t * n * token <= blocking.BYTES
  if not blocking.on_one_cpu() or block.is_initializing() or small:
    return call(block, x, per_frame, per_clip)
  frames = t if "frames" in attended else blocking.block_size(t, n * token)
  places = n if "places" in attended else blocking.block_size(n, t * token)
  corners = jnp.indices((b, t // frames, n // places)).reshape(3, -1)
  corners = corners[0], corners[1] * frames, corners[2] * places

  def of_clip(array, clip):
    one = len(array) == 1
    return array if one else jax.lax.dynamic_slice_in_dim(array, clip, 1)

  def of_frames(array, clip, start):
    array = of_clip(array, clip)
    one = array.shape[1] == 1
    return array if one else jax.lax.dynamic_slice_in_dim(array, start, frames, axis=1)

  def of_tile(block, x, clip, start):
    frame = jax.tree.map(lambda a: of_frames(a, clip, start), per_frame)
    clip = jax.tree.map(lambda a: of_clip(a, clip), per_clip)
    return call(block, x, frame, clip)

  # A backward pass that kept all that each tile has computed would copy it, too.
  dots = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
  of_tile = nn.remat(of_tile, policy=dots, prevent_cse=False)

  def in_place(block, x, corner):
    at = (*corner, 0)
    tile = jax.lax.dynamic_slice(x, at, (1, frames, places, width))
    tile = of_tile(block, tile, *corner[:2])
    return jax.lax.dynamic_update_slice(x, tile, at), None

  def out_of_place(block, _, inputs):
    tile, corner = inputs
    return None, of_tile(block, tile, *corner[:2])

  scan = functools.partial(
    nn.scan,
    variable_broadcast="params",
    variable_axes={"cache": 0, "cache_out": 0},
    split_rngs={"params": False},
  )
  if not train:
    x, _ = scan(in_place)(block, x, corners)
    return x
  layout, sizes = "(b u m) 1 t n d", dict(b=b, t=frames, n=places)
  tiles = rearrange(x, f"b (u t) (m n) d -> {layout}", **sizes)
  _, tiles = scan(out_of_place)(block, None, (tiles, corners))
  return rearrange(tiles, f"{layout} -> b (u t) (m n) d", b=b, m=n // places)
