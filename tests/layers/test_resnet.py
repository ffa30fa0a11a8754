"""Group norm, residual block and the steps between resolutions."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange, repeat

from tests.support import drawn
from vdm_jax.layers import resnet

key = jax.random.key(0)


def test_group_norm_is_flax_group_norm():
  x = 3.0 + 2.0 * drawn.normal(2, 4, 6, 8)
  affine = {"scale": np.linspace(0.5, 2.0, 8), "bias": np.linspace(-1.0, 1.0, 8)}
  flax = (nn.GroupNorm(n, epsilon=1e-6, use_fast_variance=False) for n in (4, 2))
  norms = resnet.GroupNorm(4), *flax
  run = jax.jit(lambda params, x: [norm.apply(params, x) for norm in norms])
  ours, theirs, other = run({"params": affine}, x)
  np.testing.assert_allclose(ours, theirs, atol=1e-5)
  assert not np.allclose(ours, other, atol=1e-2)


def test_group_norm_has_unit_groups_even_far_from_zero():
  # 999 and 1001 equally often in each group: all sums are exact, in any order.
  signs = np.random.default_rng(0).permuted(np.tile([-1.0, 1.0], (4, 128)), axis=1)
  x = 1e3 + rearrange(signs, "(n g) (h w c) -> n h w (g c)", g=2, h=8, w=8)
  params = {"scale": np.ones(8), "bias": np.zeros(8)}
  y = jax.jit(resnet.GroupNorm(2).apply)({"params": params}, x)
  groups = rearrange(np.asarray(y), "n h w (g c) -> n g (h w c)", g=2)
  np.testing.assert_allclose(groups.mean(-1), 0.0, atol=1e-4)
  np.testing.assert_allclose(groups.var(-1), 1.0, atol=1e-4)


def test_groups_must_divide_the_channels():
  with pytest.raises(ValueError, match="10 channels cannot be cut into groups=4"):
    resnet.GroupNorm(4).init(key, jnp.zeros((1, 2, 2, 10)))


@pytest.mark.parametrize("features", [8, 16])
def test_block_starts_as_its_shortcut(features):
  block = resnet.ResnetBlock(features, groups=4)
  x = drawn.normal(2, 4, 4, 8)
  params = nn.unbox(jax.device_get(jax.jit(block.init)(key, x)["params"]))
  assert ("conv_shortcut" in params) == (features != 8)
  shortcut = x
  if features != 8:
    shortcut = x @ params["conv_shortcut"]["kernel"][0, 0]
  apply = jax.jit(block.apply)
  np.testing.assert_allclose(apply({"params": params}, x), shortcut, atol=1e-5)
  params["conv2"] = jax.tree.map(lambda x: x + np.float32(0.1), params["conv2"])
  assert not np.allclose(apply({"params": params}, x), shortcut, atol=1e-2)


def test_downsample_looks_below_and_right():
  kernel, pixels = np.ones((3, 3, 1, 1)), np.zeros((2, 6, 8, 1))
  pixels[0, 0, 0] = pixels[1, 2, 2] = 1.0
  variables = {"params": {"conv": {"kernel": kernel, "bias": np.zeros(1)}}}
  first, corner = np.asarray(jax.jit(resnet.Downsample().apply)(variables, pixels))
  assert first.shape == (3, 4, 1)
  assert np.argwhere(first[..., 0]).tolist() == [[0, 0]]
  # This one is in reach of four windows.
  assert np.argwhere(corner[..., 0]).tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]


def test_upsample_repeats_pixels_before_it_convolves():
  x, kernel = drawn.normal(2, 3, 4, 5), np.zeros((3, 3, 5, 5))
  kernel[1, 1] = np.eye(5)
  variables = {"params": {"conv": {"kernel": kernel, "bias": np.zeros(5)}}}
  want = repeat(x, "n h w c -> n (h 2) (w 2) c")
  out = jax.jit(resnet.Upsample().apply)(variables, x)
  np.testing.assert_allclose(out, want, atol=1e-6)
