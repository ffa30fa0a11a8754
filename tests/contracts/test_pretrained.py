"""Published weights compute in our modules what they compute in the original code.

A new table is one more line in ORIGINALS and one recorded output in tests/golden: an
.npz with `meta` (JSON: names and shapes of the state dict, the rule that fills it),
inputs `in_*` and outputs `out_*`.
"""

import json
import math
import pathlib
import zlib

import jax
import numpy as np
import pytest
from einops import rearrange

from vdm_jax import pretrained
from vdm_jax.conditioning import Conditioning
from vdm_jax.models import video_dit

GOLDEN = pathlib.Path(__file__).parent.parent / "golden"
DIT = dict(out_channels=8, patch=2, width=48, num_heads=4)

ORIGINALS = {
  "latte_class": video_dit.VideoDiT(depth=4, num_classes=7, **DIT),
  "latte_uncond": video_dit.VideoDiT(depth=4, **DIT),
  "dit": video_dit.VideoDiT(depth=3, num_classes=10, layout=("spatial",), **DIT),
}
GUIDED_CHANNELS = {"latte_class": 4, "dit": 3}  # hard-coded in the originals


def fill(name, shape, seed):
  """The rule by which the original's parameters were filled."""
  rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
  z = rng.standard_normal(shape).astype(np.float32)
  if len(shape) == 1:
    return 1 + 0.1 * z if name.endswith("weight") else 0.1 * z
  return z / np.float32(math.sqrt(math.prod(shape[1:])))


@pytest.fixture(scope="module", params=ORIGINALS)
def original(request):
  """(name, module, state dict, recorded arrays, jitted forward)."""
  name, module = request.param, ORIGINALS[request.param]
  with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as file:
    arrays = dict(file)
  meta = json.loads(str(arrays.pop("meta")))
  weights = {
    key: fill(key, shape, meta["fill"]["seed"])
    for key, shape, kind in meta["state_dict"]
    if kind == "fill"
  }

  @jax.jit
  def forward(params, x, t, label=None):
    """[B, F, C, H, W] (Latte) or [B, C, H, W] (DiT) as in the original call."""
    cond = Conditioning(vectors={} if label is None else {"label": label})
    x = rearrange(x if x.ndim == 5 else x[:, None], "b t c h w -> b t h w c")
    with jax.default_matmul_precision("highest"):
      return module.apply({"params": params}, x, t.astype(np.float32), cond)

  def call(params, *inputs):
    out = rearrange(forward(params, *inputs), "b t h w c -> b t c h w")
    return np.asarray(out if inputs[0].ndim == 5 else out[:, 0])

  return name, module, weights, arrays, call


def inputs(arrays):
  return [arrays[f"in_{k}"] for k in ("x", "t", "y") if f"in_{k}" in arrays]


def error(out, wanted):
  """In units of the tolerance: equal means at most 1."""
  assert out.shape == wanted.shape
  return np.abs(out - wanted).max() / (1e-4 * max(1.0, np.abs(wanted).max()))


def test_the_module_computes_what_the_original_computed(original):
  _, module, weights, arrays, call = original
  out = call(pretrained.from_state_dict(module, weights), *inputs(arrays))
  assert error(out, arrays["out_model"]) <= 1


@pytest.mark.parametrize(
  "key", ["blocks.1.attn.qkv.weight", "x_embedder.proj.bias", "blocks.2.mlp.fc1.weight"]
)
def test_one_changed_tensor_is_seen(original, key):
  _, module, weights, arrays, call = original
  changed = weights | {key: np.roll(weights[key], 1, axis=0)}
  out = call(pretrained.from_state_dict(module, changed), *inputs(arrays))
  assert error(out, arrays["out_model"]) > 10


def test_classifier_free_guidance_equals_the_originals(original):
  name, module, weights, arrays, call = original
  if name not in GUIDED_CHANNELS:
    assert "out_with_cfg" not in arrays
    return
  scale = 7.0 if name == "latte_class" else 4.0
  x, t, y = (arrays[k][[0, 0]] for k in ("in_x", "in_t", "in_y"))
  y[1] = module.num_classes  # no class
  out = call(pretrained.from_state_dict(module, weights), x, t, y)
  axis = 2 if x.ndim == 5 else 1
  guided, rest = np.split(out, [GUIDED_CHANNELS[name]], axis=axis)
  told, untold = guided
  half = untold + scale * (told - untold)
  wanted = np.concatenate([np.stack([half, half]), rest], axis=axis)
  assert error(wanted, arrays["out_with_cfg"]) <= 1


def test_weights_come_back_bit_for_bit(original):
  _, module, weights, _, _ = original
  params = pretrained.from_state_dict(module, weights)
  back = pretrained.to_state_dict(module, params)
  assert back.keys() == weights.keys()
  for key, value in weights.items():
    np.testing.assert_array_equal(back[key], value, strict=True)
  again = pretrained.from_state_dict(module, back)
  jax.tree.map(np.testing.assert_array_equal, params, again)


def test_every_fault_is_listed_in_one_error(original):
  _, module, weights, _, _ = original
  faulty = {k: v for k, v in weights.items() if k != "final_layer.linear.bias"}
  faulty["blocks.0.mlp.fc1.bias"] = np.zeros(7, np.float32)
  faulty["blocks.9.attn.proj.bias"] = np.zeros(48, np.float32)
  with pytest.raises(ValueError) as caught:
    pretrained.from_state_dict(module, faulty)
  message = str(caught.value)
  assert "3 problems" in message
  assert "final_layer.linear.bias is missing" in message
  assert "blocks.0.mlp.fc1.bias has shape (7,), wanted (192,)" in message
  assert "blocks.9.attn.proj.bias is not of this model" in message
