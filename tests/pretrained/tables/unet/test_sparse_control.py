"""SparseCtrl computes what AnimateDiff's own code computed, alone and in a U-Net.

golden/*.npz, see support/golden_files.py. Of the control network's outputs every third
channel is kept; each depends on all of the input.
"""

import flax
import jax
import numpy as np
import pytest
from einops import rearrange

from tests.support import golden_files
from vdm_jax import pretrained
from vdm_jax.conditioning import Conditioning, Tokens
from vdm_jax.models import controlled
from vdm_jax.models.unet import architectures
from vdm_jax.pretrained import state_dict

VIDEO = "b c t h w -> b t h w c"
TINY = architectures.sparse_control(
  num_heads=4, channels=(64, 64, 96), layers=1, attention=(True, True, False)
)
MOTION = dict(channels=(64, 64, 64, 64), num_heads=4)
MODULES = {
  "animatediff_sparsectrl_rgb": controlled.ControlNet(
    TINY, hint="sparse", widths=(), ignores_x=True, scale=0.7
  ),
  "animatediff_sparsectrl_scribble": controlled.ControlNet(
    TINY, hint="sparse", widths=(8, 12, 16, 24), ignores_x=True, scale=0.7
  ),
}
WHOLE = controlled.Controlled(
  base=architectures.animatediff(version=3, **MOTION),
  control=architectures.sparse_control(**MOTION),
  hint="sparse",
  widths=(),
  ignores_x=True,
  scale=0.9,
)


def inputs(z):
  """(x, t, cond): a text, and pictures with their mask as the last channel."""
  text = z["in_context"]
  hint = np.concatenate([z["in_cond"], z["in_mask"]], axis=1)
  cond = Conditioning(
    tokens={"text": Tokens(text, np.ones(text.shape[:2], bool))},
    hints={"sparse": rearrange(hint, VIDEO)},
  )
  return rearrange(z["in_x"], VIDEO), z["in_timesteps"].astype(np.float32), cond


def error(out, wanted):
  """In units of the tolerance."""
  out = np.asarray(rearrange(out, "b t h w c -> b c t h w"))
  out = out[:, :: round(out.shape[1] / wanted.shape[1])]
  assert out.shape == wanted.shape
  bound = golden_files.TOLERANCE * max(1.0, np.abs(wanted).max())
  return np.abs(out - wanted).max() / bound


@pytest.fixture(scope="module", params=MODULES)
def case(request):
  """(module, weights, recorded arrays, (params, cond) -> residuals)."""
  meta, arrays = golden_files.read(request.param)
  module = MODULES[request.param]
  apply = jax.jit(lambda params, *args: module.apply(params, *args))

  def run(params, *args):
    with jax.default_matmul_precision("highest"):
      return apply(params, *args)

  return module, golden_files.weights(meta), arrays, run


def worst(case, weights, x=None):
  module, _, arrays, run = case
  given, t, cond = inputs(arrays)
  skips, middle = run(
    pretrained.from_state_dict(module, weights), given if x is None else x, t, cond
  )
  errors = [error(skip, arrays[f"out_down_{i}"]) for i, skip in enumerate(skips)]
  return max([*errors, error(middle, arrays["out_mid"])])


def test_it_says_what_the_original_said(case):
  assert worst(case, case[1]) <= 1


def test_it_does_not_look_at_the_noisy_video(case):
  assert worst(case, case[1], x=np.ones_like(inputs(case[2])[0])) <= 1


def test_one_changed_tensor_is_seen(case):
  name = "down_blocks.0.motion_modules.0.temporal_transformer.proj_in.weight"
  other = case[1] | {name: case[1][name] * 1.5}
  assert worst(case, other) > 10


def test_weights_come_back_bit_for_bit(case):
  module, weights, _, _ = case
  params = pretrained.from_state_dict(module, weights)
  table = state_dict.table_of(module, weights)
  back = pretrained.to_state_dict(module, params, table=table)
  assert {k for k in back if not k.endswith("pos_encoder.pe")} == weights.keys()
  for name, x in weights.items():
    np.testing.assert_array_equal(back[name], x, strict=True)


@pytest.fixture(scope="module")
def whole():
  """(parameters of base and control, recorded arrays, apply)."""
  meta, arrays = golden_files.read("animatediff_v3_with_sparsectrl")
  weights = golden_files.weights(meta)

  def part(prefix, module):
    own = {k: x for k, x in weights.items() if k.startswith(prefix)}
    own = {k.removeprefix(prefix): x for k, x in own.items()}
    return pretrained.from_state_dict(module, own)

  control = controlled.ControlNet(
    WHOLE.control, hint="sparse", widths=(), ignores_x=True
  )
  params = {
    "base": part("unet.", controlled.UNet3D(WHOLE.base)),
    "control": part("controlnet.", control),
  }
  return params, arrays, jax.jit(lambda params, *args: WHOLE.apply(params, *args))


def test_a_controlled_network_is_the_originals_two(whole):
  params, arrays, apply = whole
  with jax.default_matmul_precision("highest"):
    out = apply(params, *inputs(arrays))
    assert error(out, arrays["out_sample"]) <= 1
    mute = jax.tree.map(np.zeros_like, params["control"])
    plain = apply({**params, "control": mute}, *inputs(arrays))
  assert error(plain, arrays["out_sample_plain"]) <= 1
  assert error(plain, arrays["out_sample"]) > 10


def test_a_fresh_control_network_says_nothing():
  module = MODULES["animatediff_sparsectrl_rgb"]
  x, t, cond = inputs(golden_files.read("animatediff_sparsectrl_rgb")[1])

  @jax.jit
  def said(key):
    params = flax.linen.unbox(module.init(key, x, t, cond))
    return module.apply(params, x, t, cond)

  skips, middle = said(jax.random.key(0))
  assert len(skips) == 6
  for out in (*skips, middle):
    np.testing.assert_array_equal(out, 0.0)


def test_a_hint_of_the_wrong_size_or_name_is_refused():
  module = MODULES["animatediff_sparsectrl_scribble"]
  x, t, cond = inputs(golden_files.read("animatediff_sparsectrl_rgb")[1])
  init = lambda cond: jax.eval_shape(module.init, jax.random.key(0), x, t, cond)
  with pytest.raises(ValueError, match="give it 8 times the size of x"):
    init(cond)
  with pytest.raises(KeyError, match="reads hints\\['sparse'\\]"):
    init(Conditioning(tokens=cond.tokens))
