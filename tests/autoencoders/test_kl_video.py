"""LVDM's autoencoder computes what its own code computed.

golden/lvdm_autoencoder.npz, see support/golden_files.py.
"""

import jax
import numpy as np
import pytest
from einops import rearrange

from tests.support import golden_files
from vdm_jax import pretrained, sharding
from vdm_jax.autoencoders import kl_video

MODULE = kl_video.KLVideo()
ENCODER, DECODER = 7_458_952, 11_987_715  # counted on the original


@pytest.fixture(scope="module")
def recorded():
  """(weights, recorded arrays with channels last)."""
  meta, arrays = golden_files.read("lvdm_autoencoder")
  last = {k: rearrange(x, "b c t h w -> b t h w c") for k, x in arrays.items()}
  return golden_files.weights(meta), last


@jax.jit
def run(params, video, latents):
  with jax.default_matmul_precision("highest"):
    moments = MODULE.encode(params, video)
    return moments.mean, moments.logvar, MODULE.decode(params, latents)


def error(weights, arrays):
  """The largest difference of the three outputs, in units of the tolerance."""
  params = pretrained.from_state_dict(MODULE, weights)
  found = run(params, arrays["in_x"], arrays["in_z"])
  names = ("out_mean", "out_logvar", "out_dec")
  pairs = zip(found, (arrays[name] for name in names), strict=True)
  return max(golden_files.error(out, expected) for out, expected in pairs)


def test_it_computes_what_the_original_computed(recorded):
  assert error(*recorded) <= 1


@pytest.mark.parametrize(
  "name",
  ["encoder.conv_blocks.2.down.conv.weight", "decoder.conv_blocks.0.up.convt.bias"],
)
def test_one_changed_tensor_is_seen(recorded, name):
  weights, arrays = recorded
  assert error(weights | {name: weights[name] * 1.5 + 0.1}, arrays) > 10


def test_weights_come_back_bit_for_bit_under_both_names(recorded):
  weights, _ = recorded
  params = pretrained.from_state_dict(MODULE, weights)
  back = pretrained.to_state_dict(MODULE, params)
  for name, x in weights.items():
    np.testing.assert_array_equal(back[name], x, strict=True)
  twice = {k for k, _, kind in golden_files.read("lvdm_autoencoder")[0]["state_dict"]}
  assert set(back) == twice
  again = pretrained.from_state_dict(MODULE, back)
  jax.tree.map(np.testing.assert_array_equal, params, again)
  second = next(k for k in back if k not in weights)
  with pytest.raises(ValueError, match="is not the same as"):
    pretrained.from_state_dict(MODULE, back | {second: back[second] + 1})


def test_it_has_the_published_size():
  clip = jax.ShapeDtypeStruct((1, 16, 256, 256, 3), np.float32)
  params = jax.eval_shape(MODULE.init, jax.random.key(0), clip)
  size = lambda tree: sum(x.size for x in jax.tree.leaves(tree))
  assert (size(params["encoder"]), size(params["decoder"])) == (ENCODER, DECODER)
  moments = jax.eval_shape(MODULE.encode, params, clip)
  assert moments.mean.shape == (1, 4, 32, 32, 4)


def test_published_statistics_shift_and_then_scale():
  z = np.array([0.5, -1.0, 2.0, 0.0], np.float32)
  params = {"latents": MODULE.statistics_from_published(0.33422927, 1.4606637)}
  moments = kl_video.base.Moments(z, np.zeros_like(z))
  latents = MODULE.latents(params, moments, None)
  np.testing.assert_allclose(latents, 0.33422927 * (z + 1.4606637), rtol=1e-6)


def test_a_stride_that_is_no_power_of_two_is_refused():
  with pytest.raises(ValueError, match="must be powers of 2"):
    kl_video.KLVideo(stride=(3, 8, 8))


def test_z_channels_may_differ_from_the_latents():
  """LVDM's z_channels and embed_dim: two numbers of its configs."""
  fields = dict(width=4, stride=(1, 2, 2), groups=2, latent_channels=3, z_channels=5)
  module = kl_video.KLVideo(**fields)
  video = np.zeros((1, 1, 4, 4, 3), np.float32)
  init = lambda: sharding.unbox(module.init(jax.random.key(0), video))
  params = jax.eval_shape(init)
  shapes = {
    "quant_conv": (1, 1, 1, 10, 6),
    "post_quant_conv": (1, 1, 1, 3, 5),
  }
  for name, shape in shapes.items():
    assert params[name]["conv"]["kernel"].shape == shape
  assert params["encoder"]["final_block_2"]["conv"]["kernel"].shape[-1] == 10
  moments = jax.eval_shape(module.encode, params, video)
  assert moments.mean.shape == (1, 1, 2, 2, 3)
  assert jax.eval_shape(module.decode, params, moments.mean).shape == video.shape
