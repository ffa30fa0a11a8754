"""Checkpoints of whole systems, of which one part or two are read."""

import numpy as np
import pytest

from tests.encoders import test_resampler
from tests.support import golden_files
from vdm_jax import pretrained
from vdm_jax.models.unet import architectures, resampled, unet3d

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


def test_inside_a_part_nothing_is_missing_and_nothing_surplus(whole):
  both = resampled.Resampled(UNET, RESAMPLER)
  lost, more = "image_proj_model.norm_out.bias", "model.diffusion_model.out.3.bias"
  weights = whole | {more: np.zeros(3, np.float32)}
  del weights[lost]
  with pytest.raises(
    ValueError, match=f"2 problems:\n  {lost} is missing\n  {more} is"
  ):
    pretrained.from_state_dict(both, weights)
  with pytest.raises(
    ValueError, match="1 problems:\n  out.3.bias is not of this model"
  ):
    pretrained.from_state_dict(UNET, weights)
  alone = {k: x for k, x in whole.items() if k.startswith("model.")}
  with pytest.raises(ValueError, match="image_proj_model.* is missing"):
    pretrained.from_state_dict(both, alone)
