"""Two autoencoders as one are the two, one after the other."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vdm_jax.autoencoders import clip_tokens, kl_image, stacked

OUTER = kl_image.KLImage(
  channels=(8, 8), layers_per_block=1, groups=4, mid_layers=1, mid_attention=False
)
INNER = clip_tokens.ClipTokens(
  window=(2, 4, 4),
  patch=(1, 4, 4),
  num_tokens=1,
  latent_channels=6,
  pixel_channels=4,
  width=8,
  depths=(1, 1),
  num_heads=2,
)
BOTH = stacked.Stacked(outer=OUTER, inner=INNER)


def test_both_are_used_with_the_statistics_of_each():
  rng = np.random.default_rng(0)
  video = jnp.asarray(rng.uniform(-1, 1, (1, 4, 8, 8, 3)), jnp.float32)
  params = jax.jit(lambda k: nn.unbox(BOTH.init(k, video)))(jax.random.key(0))
  assert BOTH.stride == (2, 8, 8)
  stats = {"shift": jnp.full(4, 0.3), "scale": jnp.full(4, 0.2)}
  params["outer"]["latents"] = stats
  between = OUTER.encode(params["outer"], video).mean / 0.2 - 0.3 / 0.2
  want = INNER.encode(params["inner"], between)
  got = BOTH.encode(params, video)
  np.testing.assert_allclose(got.mean, want.mean, atol=1e-5)
  z = BOTH.latents(params, got, None)
  again = OUTER.decode(params["outer"], INNER.decode(params["inner"], z))
  np.testing.assert_allclose(BOTH.decode(params, z), again, atol=1e-5)
  # Negative control: the outer statistics matter.
  params["outer"]["latents"] = {"shift": jnp.zeros(4), "scale": jnp.ones(4)}
  assert np.abs(BOTH.encode(params, video).mean - want.mean).max() > 1e-2
