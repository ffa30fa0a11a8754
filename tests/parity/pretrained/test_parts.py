"""Checkpoints of whole systems, of which one part or two are read."""

import jax
import numpy as np
import pytest
import torch

from tests.encoders import test_resampler
from tests.support import golden_files
from vdm_jax import pretrained
from vdm_jax.models.unet import architectures, resampled, unet3d
from vdm_jax.pretrained import folder, start

UNET = unet3d.UNet3D(
  architectures.videocrafter2(
    head_dim=16, image_keys=True, channels=(32, 64, 128, 128), layers=1
  )
)


RESAMPLER = test_resampler.MODULE


PREFIXES = {UNET: "model.diffusion_model.", RESAMPLER: "image_proj_model."}


OTHERS = ("betas", "first_stage_model.encoder.conv_in.weight", "embedder.logit_scale")


@pytest.fixture(scope="module")
def parts():
  """{module: its state dict}."""
  names = {UNET: "videocrafter1_i2v", RESAMPLER: "videocrafter1_resampler"}
  return {
    k: golden_files.weights(golden_files.read(name)[0]) for k, name in names.items()
  }


@pytest.fixture(scope="module")
def whole(parts):
  """The state dict of VideoCrafter 1's image to video."""
  out = dict.fromkeys(OTHERS, np.zeros(3, np.float32))
  for module, weights in parts.items():
    out |= {PREFIXES[module] + name: x for name, x in weights.items()}
  return out


def write(path, state_dict, wrapper):
  torch.save({wrapper: {k: torch.tensor(x) for k, x in state_dict.items()}}, path)
  return path


def equal(found, wanted):
  jax.tree.map(np.testing.assert_array_equal, found, wanted)


@pytest.mark.parametrize(
  "wrapper, before", [("state_dict", ""), ("module", "_forward_module.")]
)
def test_each_part_is_read_from_the_file_of_all(
  parts, whole, wrapper, before, tmp_path
):
  renamed = {before + name: x for name, x in whole.items()}
  path = write(tmp_path / "model.ckpt", renamed, wrapper)
  wanted = {k: pretrained.from_state_dict(k, weights) for k, weights in parts.items()}
  for module in parts:
    equal(folder.load(path, module=module)[1], wanted[module])
  both = resampled.Resampled(UNET, RESAMPLER)
  params = {"network": wanted[UNET], "resampler": wanted[RESAMPLER]}
  module, found = folder.load(path, module=both, dtype="bfloat16")
  assert module.network.dtype == module.resampler.param_dtype == "bfloat16"
  equal(found, jax.tree.map(lambda x: x.astype("bfloat16"), params))
  # A training that starts from them, and what is written of it.
  zeros = jax.tree.map(np.zeros_like, params)
  equal(start.init_from_published(zeros, path=path, module=both), params)
  back = pretrained.to_state_dict(both, params)
  assert back.keys() == whole.keys() - set(OTHERS)
  for name, x in back.items():
    np.testing.assert_array_equal(x, whole[name], strict=True)
