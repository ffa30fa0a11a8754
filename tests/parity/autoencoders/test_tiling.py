"""Tiles: what diffusers makes of them, and that they differ from the whole at seams."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from einops import rearrange

from tests.support import golden_files
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
  torch.set_num_threads(1)
  network = AutoencoderKL(
    block_out_channels=(8, 16),
    down_block_types=["DownEncoderBlock2D"] * 2,
    up_block_types=["UpDecoderBlock2D"] * 2,
    norm_num_groups=4,
    latent_channels=3,
    sample_size=16,
    scaling_factor=1.0,
  )
  fill = lambda name, x: torch.from_numpy(golden_files.fill(name, tuple(x.shape), 7))
  state = {name: fill(name, x) for name, x in network.state_dict().items()}
  network.load_state_dict(state)
  network.enable_tiling()
  assert network.tile_latent_min_size == TILE
  return network.eval()


@pytest.fixture(scope="module")
def params(theirs):
  state = {name: x.numpy() for name, x in theirs.state_dict().items()}
  latents = {"shift": np.zeros(3, np.float32), "scale": np.ones(3, np.float32)}
  return {**pretrained.from_state_dict(WHOLE, state), "latents": latents}


def noise(*shape):
  return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def images(x):
  return torch.from_numpy(rearrange(x, "b t h w c -> (b t) c h w"))


def video(x):
  return rearrange(x.detach().numpy(), "(b t) c h w -> b t h w c", b=2)


def near(reference):
  return 1e-4 * max(1.0, np.abs(reference).max())


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_decoding_is_diffusers(theirs, params, size):
  z = noise(2, 3, *size, 3)
  tiled, whole = jax.jit(lambda p, z: (TILED.decode(p, z), WHOLE.decode(p, z)))(
    params, z
  )
  wanted = video(theirs.decode(images(z)).sample)
  np.testing.assert_allclose(tiled, wanted, atol=near(wanted))
  assert (np.abs(whole - wanted).max() > 100 * near(wanted)) == (max(size) > TILE)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_encoding_is_diffusers(theirs, params, size):
  x = noise(2, 3, *(2 * n for n in size), 3)
  tiled, whole = jax.jit(lambda p, x: (TILED.encode(p, x), WHOLE.encode(p, x)))(
    params, x
  )
  wanted = theirs.encode(images(x)).latent_dist
  mean, logvar = video(wanted.mean), video(wanted.logvar)
  np.testing.assert_allclose(tiled.mean, mean, atol=near(mean))
  np.testing.assert_allclose(tiled.logvar, logvar, atol=near(logvar))
  assert (np.abs(whole.mean - mean).max() > 100 * near(mean)) == (max(size) > TILE)


def test_slices_of_tiles_are_diffusers(theirs, params):
  sliced = dataclasses.replace(TILED, chunk=1)
  z = noise(2, 3, 9, 14, 3)
  theirs.enable_slicing()
  wanted = video(theirs.decode(images(z)).sample)
  theirs.disable_slicing()
  decoded = jax.jit(sliced.decode)(params, z)
  np.testing.assert_allclose(decoded, wanted, atol=near(wanted))


def test_tiles_bound_the_memory(params):
  """256 times the pixels of a tile take a few tiles' memory beside the output."""
  z = jax.ShapeDtypeStruct((1, 1, 16 * TILE, 16 * TILE, 3), jnp.float32)
  need = {}
  for name, autoencoder in (("whole", WHOLE), ("tiled", TILED)):
    compiled = jax.jit(autoencoder.decode).lower(params, z).compile()
    need[name] = compiled.memory_analysis().temp_size_in_bytes
  assert need["tiled"] < need["whole"] / 8, need
