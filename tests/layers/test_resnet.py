"""Group norm, residual block and the steps between resolutions."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange, repeat

from vdm_jax.layers import resnet

key = jax.random.key(0)


def test_group_norm_is_flax_group_norm():
  x = 3.0 + 2.0 * jax.random.normal(key, (2, 4, 6, 8))
  affine = {"scale": jnp.linspace(0.5, 2.0, 8), "bias": jnp.linspace(-1.0, 1.0, 8)}
  ours = resnet.GroupNorm(4).apply({"params": affine}, x)
  theirs = nn.GroupNorm(4, epsilon=1e-6, use_fast_variance=False)
  np.testing.assert_allclose(ours, theirs.apply({"params": affine}, x), atol=1e-5)
  other = nn.GroupNorm(2, epsilon=1e-6).apply({"params": affine}, x)
  assert not np.allclose(ours, other, atol=1e-2)


def test_group_norm_has_unit_groups_even_far_from_zero():
  x = 1e3 + jax.random.normal(key, (2, 8, 8, 8))
  params = {"scale": jnp.ones(8), "bias": jnp.zeros(8)}
  y = resnet.GroupNorm(2).apply({"params": params}, x)
  groups = rearrange(y, "n h w (g c) -> n g (h w c)", g=2)
  np.testing.assert_allclose(groups.mean(-1), 0.0, atol=1e-4)
  np.testing.assert_allclose(groups.var(-1), 1.0, atol=1e-4)


def test_groups_must_divide_the_channels():
  with pytest.raises(ValueError, match="10 channels cannot be cut into groups=4"):
    resnet.GroupNorm(4).init(key, jnp.zeros((1, 2, 2, 10)))


@pytest.mark.parametrize("features", [8, 16])
def test_block_starts_as_its_shortcut(features):
  block = resnet.ResnetBlock(features, groups=4)
  x = jax.random.normal(key, (2, 4, 4, 8))
  params = nn.unbox(jax.jit(block.init)(key, x)["params"])
  assert ("conv_shortcut" in params) == (features != 8)
  moved = {**params, "conv2": jax.tree.map(lambda x: x + 0.1, params["conv2"])}
  y = block.apply({"params": moved}, x)
  shortcut = x
  if features != 8:
    shortcut = x @ params["conv_shortcut"]["kernel"][0, 0]
  assert not np.allclose(y, shortcut, atol=1e-2)
  np.testing.assert_allclose(block.apply({"params": params}, x), shortcut, atol=1e-5)


def test_downsample_looks_below_and_right():
  down = resnet.Downsample()
  kernel = jnp.ones((3, 3, 1, 1))
  variables = {"params": {"conv": {"kernel": kernel, "bias": jnp.zeros(1)}}}
  seen = lambda i, j: down.apply(
    variables, jnp.zeros((1, 6, 8, 1)).at[0, i, j].set(1.0)
  )
  first = seen(0, 0)[0, ..., 0]
  assert first.shape == (3, 4)
  assert np.array_equal(np.argwhere(first), [[0, 0]])
  corner = seen(2, 2)[0, ..., 0]  # in reach of four windows
  assert np.array_equal(np.argwhere(corner), [[0, 0], [0, 1], [1, 0], [1, 1]])


def test_upsample_repeats_pixels_before_it_convolves():
  x = jax.random.normal(key, (2, 3, 4, 5))
  kernel = jnp.zeros((3, 3, 5, 5)).at[1, 1].set(jnp.eye(5))
  variables = {"params": {"conv": {"kernel": kernel, "bias": jnp.zeros(5)}}}
  want = repeat(x, "n h w c -> n (h 2) (w 2) c")
  np.testing.assert_allclose(resnet.Upsample().apply(variables, x), want, atol=1e-6)
