"""CLIP's image encoder: penultimate tokens, sizes. Parity: rows_encoders.py."""

import jax
import numpy as np
import pytest
import torch
import transformers

from tests.support import golden_files
from vdm_jax import pretrained
from vdm_jax.encoders import clip_image
from vdm_jax.pretrained.tables.encoders.clip import IMAGE as table


def test_penultimate_tokens(tmp_path):
  config = transformers.CLIPVisionConfig(
    hidden_size=12,
    num_hidden_layers=3,
    num_attention_heads=2,
    intermediate_size=20,
    image_size=11,
    patch_size=3,
  )
  theirs = transformers.CLIPVisionModel(config).eval()
  torch.set_num_threads(1)
  with torch.no_grad():
    for name, x in theirs.named_parameters():
      x.copy_(torch.from_numpy(golden_files.fill(name, tuple(x.shape), 0)))
  theirs.save_pretrained(tmp_path)
  module, params = pretrained.load(tmp_path)
  pixels = np.random.default_rng(0).standard_normal((2, 11, 11, 3)).astype(np.float32)
  with torch.no_grad():
    told = torch.from_numpy(np.moveaxis(pixels, -1, 1).copy())
    wanted = [x.numpy() for x in theirs(told, output_hidden_states=True).hidden_states]

  @jax.jit
  def tokens(params, pixels):
    with jax.default_matmul_precision("highest"):
      early, last = module.clone(skip=1), module
      return [m.apply(params, pixels, method="tokens") for m in (early, last)]

  early, last = tokens(params, pixels)
  np.testing.assert_allclose(early, wanted[-2], atol=2e-5)
  np.testing.assert_allclose(last, wanted[-1], atol=2e-5)
  assert np.abs(wanted[-1] - wanted[-2]).max() > 1e-2


def test_pixels_of_another_size_are_refused():
  module = clip_image.ClipImage(
    depth=1, width=8, num_heads=2, hidden=8, size=8, patch=4
  )
  with pytest.raises(ValueError, match=r"\(H, W, C\) = \(8, 8, 3\)"):
    module.init(jax.random.key(0), np.zeros((1, 8, 9, 3)))


def test_vit_h_has_the_original_number_of_parameters():
  """The image encoder of Stable Video Diffusion."""
  config = transformers.CLIPVisionConfig(
    hidden_size=1280,
    intermediate_size=5120,
    num_hidden_layers=32,
    num_attention_heads=16,
    patch_size=14,
    projection_dim=1024,
    hidden_act="gelu",
  )
  with torch.device("meta"):
    theirs = transformers.CLIPVisionModelWithProjection(config)
  name = {"architectures": ["CLIPVisionModelWithProjection"]}
  module = table.from_config(config.to_dict() | name, {})
  ours = jax.tree.leaves(table.abstract_params(module, {}))
  assert sum(x.size for x in ours) == theirs.num_parameters()
  assert module.activation == "gelu" and module.projection == 1024


def test_sizes_that_are_no_numbers_are_named():
  with pytest.raises(ValueError) as caught:
    table.from_config({"image_size": [224, 160], "hidden_act": "tanh"}, {})
  assert "image_size=[224, 160]" in str(caught.value)
  assert "hidden_act='tanh'" in str(caught.value)
