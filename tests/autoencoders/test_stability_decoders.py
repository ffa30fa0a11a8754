"""Stability AI's decoders: outputs of their own code, generative-models.

golden/kl_image.npz is its decoder of images, golden/svd_decoder.npz that of Stable
Video Diffusion on clips of five frames and of one; both in its older names.
"""

import re

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from einops import rearrange

from tests.support import golden_files, suite
from vdm_jax.autoencoders import kl_image, kl_temporal

SIZES = dict(channels=(32, 64, 128), layers_per_block=1)
NAMES = (
  (r"^up\.(\d)", lambda m: f"up_blocks_{2 - int(m[1])}"),
  (r"^mid\.block_(\d)", lambda m: f"mid_block/resnets_{int(m[1]) - 1}"),
  (r"^mid\.attn_1\.norm", "mid_block/attentions_0/group_norm"),
  (r"^mid\.attn_1\.proj_out", "mid_block/attentions_0/to_out_0"),
  (r"^mid\.attn_1\.", "mid_block/attentions_0/to_"),
  (r"\.block\.(\d)\.", r"/resnets_\1/"),
  (r"in_layers\.0", "norm1"),
  (r"in_layers\.2", "conv1"),
  (r"out_layers\.0", "norm2"),
  (r"out_layers\.3", "conv2"),
  (r"nin_shortcut", "conv_shortcut"),
  (r"\.upsample\.", "/upsamplers_0/"),
  (r"^norm_out", "conv_norm_out"),
)
ALONG_TIME = (
  (r"(resnets_\d).mix_factor", r"\1/time_mixer/mix_factor"),
  (r"(resnets_\d).(norm|conv|nin)", r"\1/spatial_res_block/\2"),
  (r"(resnets_\d).time_stack.", r"\1/temporal_res_block/"),
  (r"^conv_out\.time_mix_conv", "time_conv_out"),
)


def from_original(weights, decoder, z, names):
  """Parameters of `decoder`, all of them, from tensors in the original's names."""
  spec = nn.unbox(jax.eval_shape(decoder.init, jax.random.key(0), z)["params"])
  shapes = flax.traverse_util.flatten_dict(spec, sep="/")
  params = {}
  for name, x in weights.items():
    for old, new in names:
      name = re.sub(old, new, name)
    name = name.replace(".", "/")
    norm = x.ndim == 1 and "norm" in name
    name = name.replace("/weight", "/scale" if norm else "/kernel")
    x = x if x.ndim == 1 else rearrange(x, "o i ... -> ... i o")
    params[name] = x.reshape(shapes[name].shape)  # 1 x 1 convolutions as matrices
  assert params.keys() == shapes.keys()
  return flax.traverse_util.unflatten_dict(params, sep="/")


def images():
  """(decoder, parameters, [(latents, decoded)])."""
  meta, z = golden_files.read("kl_image")
  meta, decoder = meta["decoder"], kl_image.Decoder(kl_image.KLImage(**SIZES))
  fill = lambda n, shape: golden_files.fill(meta["prefix"] + n, shape, meta["seed"])
  weights = {name: fill(name, shape) for name, shape in meta["state_dict"]}
  pair = [rearrange(z[k], "n c h w -> n h w c") for k in ("in_z", "out_decoded")]
  return decoder, from_original(weights, decoder, pair[0], NAMES), [pair]


def videos():
  """(decoder, parameters, [(latents, decoded)] of clips of five frames and of one)."""
  meta, z = golden_files.read("svd_decoder")
  decoder = kl_temporal.TemporalDecoder(kl_temporal.KLTemporal(**SIZES))
  clips = lambda x, t: jnp.array(rearrange(x, "(b t) c h w -> b t h w c", t=t))
  five, one = ("out_dec", int(z["in_num_frames"])), ("out_dec_single", 1)
  frames = [five, *suite.only_complete(one)]  # the same code
  pairs = [(clips(z["in_z"], t), clips(z[name], t)) for name, t in frames]
  names = (*NAMES[:6], *ALONG_TIME, *NAMES[6:])
  weights = golden_files.weights(meta)
  return decoder, from_original(weights, decoder, pairs[0][0], names), pairs


@pytest.mark.parametrize("recorded", [images, videos])
def test_the_decoder_is_the_original(recorded):
  decoder, params, pairs = recorded()
  decode = jax.jit(lambda params, z: decoder.apply({"params": params}, z))
  for z, expected in pairs:
    assert golden_files.error(decode(params, z), expected) <= 1
  mirror = lambda x: x[::-1] if x.ndim > 2 and len(x) == 3 else x
  z, expected = pairs[0]
  assert golden_files.error(decode(jax.tree.map(mirror, params), z), expected) > 100
