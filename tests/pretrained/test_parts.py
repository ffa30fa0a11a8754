"""Checkpoints of whole systems, of which one part or two are read."""

import jax
import numpy as np
import pytest

from tests.support import drawn
from tests.support.published.folder import equal
from vdm_jax import pretrained
from vdm_jax.encoders import resampler
from vdm_jax.models.unet import architectures, resampled, unet3d
from vdm_jax.pretrained import folder, start
from vdm_jax.pretrained.formats import files
from vdm_jax.pretrained.tables.encoders import resampler as resampler_table
from vdm_jax.pretrained.tables.unet import unet_openai

UNET = unet3d.UNet3D(
  architectures.videocrafter2(
    head_dim=4, image_keys=True, channels=(8,), layers=1, attention=(True,), groups=4
  )
)
RESAMPLER = resampler.Resampler(
  depth=1, width=8, num_heads=1, head_dim=8, embedding=6, queries=5, features=1
)
BOTH = resampled.Resampled(UNET, RESAMPLER)
PREFIXES = {UNET: "model.diffusion_model.", RESAMPLER: "image_proj_model."}
OTHERS = ("betas", "first_stage_model.encoder.conv_in.weight", "embedder.logit_scale")


@pytest.fixture(scope="module")
def parts():
  """{module: its state dict}."""
  out = {}
  tables = {UNET: unet_openai.TABLE, RESAMPLER: resampler_table.TABLE}
  for module, table in tables.items():
    params = drawn.like(table.abstract_params(module, {}))
    out[module] = pretrained.to_state_dict(module, params, table=table)
  return out


@pytest.fixture(scope="module")
def whole(parts):
  """The state dict of VideoCrafter 1's image to video."""
  out = dict.fromkeys(OTHERS, np.zeros(3, np.float32))
  for module, weights in parts.items():
    out |= {PREFIXES[module] + name: x for name, x in weights.items()}
  return out


@pytest.mark.complete
def test_each_part_is_read_from_the_file_of_all(parts, whole, tmp_path):
  renamed = {"_forward_module." + name: x for name, x in whole.items()}
  files.write_safetensors(tmp_path, "model", renamed, renamed.items())
  path = tmp_path / "model.safetensors"
  expected = {k: pretrained.from_state_dict(k, weights) for k, weights in parts.items()}
  params = {"network": expected[UNET], "resampler": expected[RESAMPLER]}
  for module in parts:
    equal(folder.load(path, module=module)[1], expected[module])
    equal(pretrained.from_state_dict(module, {"state_dict": whole}), expected[module])
  equal(pretrained.from_state_dict(BOTH, {"module": renamed}), params)
  module, found = folder.load(path, module=BOTH, dtype="bfloat16")
  assert module.network.dtype == module.resampler.param_dtype == "bfloat16"
  equal(found, jax.tree.map(lambda x: x.astype("bfloat16"), params))
  # A training that starts from them, and what is written of it.
  zeros = jax.tree.map(np.zeros_like, params)
  equal(start.init_from_published(zeros, path=path, module=BOTH), params)
  back = pretrained.to_state_dict(BOTH, params)
  assert back.keys() == whole.keys() - set(OTHERS)
  for name, x in back.items():
    np.testing.assert_array_equal(x, whole[name], strict=True)


def test_a_part_is_known_by_either_of_its_names(parts):
  weights = {f"image_proj.{name}": x for name, x in parts[RESAMPLER].items()}
  found = pretrained.from_state_dict(RESAMPLER, weights)
  equal(found, pretrained.from_state_dict(RESAMPLER, parts[RESAMPLER]))


def test_inside_a_part_nothing_is_missing_and_nothing_surplus(whole):
  lost, more = "image_proj_model.norm_out.bias", "model.diffusion_model.out.3.bias"
  weights = whole | {more: np.zeros(3, np.float32)}
  del weights[lost]
  network = {k: x for k, x in whole.items() if k.startswith("model.")}
  for message, module, found in (
    (f"2 problems:\n  {lost} is missing\n  {more} is", BOTH, weights),
    ("1 problems:\n  out.3.bias is not of this model", UNET, weights),
    ("image_proj_model.* is missing", BOTH, network),
  ):
    with pytest.raises(ValueError, match=message):
      pretrained.from_state_dict(module, found)
