"""Tiles: what diffusers makes of them, and that they differ from the whole at seams."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from einops import rearrange

from tests.parity import originals
from tests.support import drawn
from vdm_jax import pretrained
from vdm_jax.autoencoders import kl_image

TILE = 8  # latent pixels; the next tile starts 6 further
WHOLE = kl_image.KLImage(
  channels=(8, 16), layers_per_block=1, groups=4, latent_channels=3, sample_size=16
)
TILED = dataclasses.replace(WHOLE, tile=TILE)
# (14, 9): edges of 2 and of 3. (13, 20): of 7 and then of 1; of 2. (7, 12): one side
# is smaller than a tile, and still is cut. (8, 5): nothing is.
SIZES = [(14, 9), (13, 20), (7, 12), (8, 5)]


@pytest.fixture(scope="module")
def theirs():
  network = AutoencoderKL(
    block_out_channels=(8, 16),
    down_block_types=["DownEncoderBlock2D"] * 2,
    up_block_types=["UpDecoderBlock2D"] * 2,
    norm_num_groups=4,
    latent_channels=3,
    sample_size=16,
    scaling_factor=1.0,
  )
  network.enable_tiling()
  assert network.tile_latent_min_size == TILE
  return originals.filled(network, 7)


@pytest.fixture(scope="module")
def params(theirs):
  state = {name: x.numpy() for name, x in theirs.state_dict().items()}
  latents = {"shift": np.zeros(3, np.float32), "scale": np.ones(3, np.float32)}
  return {**pretrained.from_state_dict(WHOLE, state), "latents": latents}


def images(x):
  return torch.from_numpy(rearrange(x, "b t h w c -> (b t) c h w"))


def video(x):
  return rearrange(x.detach().numpy(), "(b t) c h w -> b t h w c", b=2)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_tiles_are_diffusers(theirs, params, size):
  """Of latents and of pixels."""
  z, x = drawn.normal(2, 3, *size, 3), drawn.normal(2, 3, *(2 * n for n in size), 3)

  @jax.jit
  def run(params, z, x):
    out = []
    for autoencoder in (TILED, WHOLE):
      moments = autoencoder.encode(params, x)
      out.append((autoencoder.decode(params, z), moments.mean, moments.logvar))
    return out

  posterior = theirs.encode(images(x)).latent_dist
  outputs = theirs.decode(images(z)).sample, posterior.mean, posterior.logvar
  for tiled, whole, original in zip(*run(params, z, x), outputs, strict=True):
    bound = 1e-4 * max(1.0, original.abs().max().item())
    np.testing.assert_allclose(tiled, video(original), atol=bound)
    is_cut = np.abs(whole - video(original)).max() > 100 * bound
    assert is_cut == (max(size) > TILE)


def test_tiles_bound_the_memory(params):
  """256 times the pixels of a tile take a few tiles' memory and the output's."""
  z = jax.ShapeDtypeStruct((1, 1, 16 * TILE, 16 * TILE, 3), jnp.float32)
  need = {}
  for name, autoencoder in (("whole", WHOLE), ("tiled", TILED)):
    compiled = jax.jit(autoencoder.decode).lower(params, z).compile()
    need[name] = compiled.memory_analysis().temp_size_in_bytes
  assert need["tiled"] < need["whole"] / 8, need
