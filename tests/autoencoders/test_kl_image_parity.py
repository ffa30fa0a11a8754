"""Encoder and decoder equal the original code on weights that follow from a rule.

golden/kl_image.npz: diffusers' AutoencoderKL.encode, and the decoder of Stability AI's
generative-models, which has the older names. A weight is noise seeded by its name.
"""

import re

import flax
import flax.linen as nn
import jax
import numpy as np
import pytest
from einops import rearrange

from tests.support import golden_files
from vdm_jax.autoencoders import kl_image


@pytest.fixture(scope="module")
def golden():
  meta, arrays = golden_files.read("kl_image")
  return {"meta": meta, **arrays}


def load(meta, rename, spec):
  """Our parameters of `spec` from their names, all of which must be consumed."""
  flat = flax.traverse_util.flatten_dict(spec, sep="/")
  params = {}
  for name, shape in meta["state_dict"]:
    x = golden_files.fill(meta["prefix"] + name, shape, meta["seed"])
    path = rename(name).replace(".", "/")
    if x.ndim == 1:
      path = path.replace("weight", "scale")
    else:
      path = path.replace("weight", "kernel")
      x = rearrange(x, "o i ... -> ... i o")
      if x.ndim == 4 and flat[path].ndim == 2:  # a 1 x 1 convolution as a matrix
        x = x[0, 0]
    assert flat[path].shape == x.shape, path
    params[path] = x
  assert params.keys() == flat.keys()
  return flax.traverse_util.unflatten_dict(params, sep="/")


def new_names(name):
  return re.sub(r"\.(\d+)", r"_\1", name)


def old_names(name, levels=3):
  name = re.sub(r"^up\.(\d)", lambda m: f"up_blocks_{levels - 1 - int(m[1])}", name)
  name = re.sub(
    r"^mid\.block_(\d)", lambda m: f"mid_block.resnets_{int(m[1]) - 1}", name
  )
  name = re.sub(r"\bblock\.(\d)", r"resnets_\1", name)
  for old, new in (
    ("mid.attn_1.norm", "mid_block.attentions_0.group_norm"),
    ("mid.attn_1.proj_out", "mid_block.attentions_0.to_out_0"),
    ("mid.attn_1.", "mid_block.attentions_0.to_"),
    ("nin_shortcut", "conv_shortcut"),
    ("upsample.", "upsamplers_0."),
  ):
    name = name.replace(old, new)
  return re.sub(r"^norm_out", "conv_norm_out", name)


def compare(run, params, reference):
  """Ours is theirs, and is not when one convolution's kernel is mirrored."""
  near = 1e-4 * max(1.0, np.abs(reference).max())
  np.testing.assert_allclose(run(params), reference, atol=near)
  wrong = jax.tree.map(lambda x: x[:, ::-1] if x.shape[:2] == (3, 3) else x, params)
  assert np.abs(run(wrong) - reference).max() > 100 * near


def test_encoder_is_diffusers(golden):
  autoencoder = kl_image.KLImage(channels=(8, 16), layers_per_block=1, groups=4)
  video = rearrange(golden["in_x"], "t c h w -> 1 t h w c")
  spec = nn.unbox(jax.eval_shape(autoencoder.init, jax.random.key(0), video))
  spec = {k: spec[k] for k in ("encoder", "quant_conv")}
  params = load(golden["meta"]["encoder"], new_names, spec)
  run = jax.jit(lambda params: 0.18215 * autoencoder.encode(params, video).mean)
  compare(run, params, rearrange(golden["out_latent"], "t c h w -> 1 t h w c"))


def test_decoder_is_generative_models(golden):
  config = kl_image.KLImage(channels=(32, 64, 128), layers_per_block=1)
  z = rearrange(golden["in_z"], "n c h w -> n h w c")
  decoder = kl_image.Decoder(config)
  spec = nn.unbox(jax.eval_shape(decoder.init, jax.random.key(0), z)["params"])
  params = load(golden["meta"]["decoder"], old_names, spec)
  run = jax.jit(lambda params: decoder.apply({"params": params}, z))
  compare(run, params, rearrange(golden["out_decoded"], "n c h w -> n h w c"))
