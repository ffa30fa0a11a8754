"""Two autoencoders as one are the two, one after the other."""

import jax
import numpy as np

from tests.support import drawn
from vdm_jax.autoencoders import clip_tokens, kl_image, stacked

SMALL = dict(channels=(8,), layers_per_block=1, groups=4, mid_layers=0)
OUTER = kl_image.KLImage(**SMALL, patch=2)
SIZES = dict(num_tokens=1, latent_channels=6, pixel_channels=4, width=8, num_heads=2)
WINDOW = dict(window=(2, 4, 4), patch=(1, 4, 4))
INNER = clip_tokens.ClipTokens(depths=(1, 1), **WINDOW, **SIZES)
BOTH = stacked.Stacked(outer=OUTER, inner=INNER)


@jax.jit
def ways(params, video):
  """(moments' mean, decoded video) of one after the other, and of both as one."""
  outer, inner = params["outer"], params["inner"]
  mean = INNER.encode(inner, OUTER.encode(outer, video).mean / 0.2 - 0.3 / 0.2).mean
  moments = BOTH.encode(params, video)
  z = BOTH.latents(params, moments, None)
  decoded = OUTER.decode(outer, INNER.decode(inner, z))
  return (mean, decoded), (moments.mean, BOTH.decode(params, z))


def test_both_are_used_with_the_statistics_of_each():
  assert BOTH.stride == (2, 8, 8)
  video = drawn.normal(1, 4, 8, 8, 3)
  params = drawn.scaled(jax.eval_shape(BOTH.init, jax.random.key(0), video))
  params["inner"]["latents"] = {"shift": np.full(6, 0.1), "scale": np.full(6, 2.0)}
  params["outer"]["latents"] = {"shift": np.full(4, 0.3), "scale": np.full(4, 0.2)}
  expected, found = ways(params, video)
  close = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5)
  jax.tree.map(close, found, expected)
  # Negative control: the outer statistics matter.
  params["outer"]["latents"] = {"shift": np.zeros(4), "scale": np.ones(4)}
  (other, _), (mean, _) = ways(params, video)
  assert np.abs(np.asarray(mean) - other).max() > 1e-2
