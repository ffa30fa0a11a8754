"""A U-Net with SparseCtrl computes what AnimateDiff's own code computed.

Of the control network itself: tests/pretrained/test_originals.py.
"""

import flax
import jax
import numpy as np
import pytest
from einops import rearrange

from tests.support import golden_files
from tests.support.sparse_control import MODULES, inputs
from vdm_jax import pretrained
from vdm_jax.conditioning import Conditioning
from vdm_jax.models import controlled
from vdm_jax.models.unet import architectures, unet3d

pytestmark = pytest.mark.usefixtures("unoptimized")

MOTION = dict(channels=(64, 64, 64, 64), num_heads=4)
WHOLE = controlled.Controlled(
  base=unet3d.UNet3D(architectures.animatediff(version=3, **MOTION)),
  control=controlled.ControlNet(
    architectures.sparse_control(**MOTION),
    hint="sparse",
    widths=(),
    ignores_x=True,
    scale=0.9,
  ),
)


def error(out, expected):
  """In units of the tolerance."""
  return golden_files.error(rearrange(out, "b t h w c -> b c t h w"), expected)


def test_a_controlled_network_is_the_originals_two():
  meta, arrays = golden_files.read("animatediff_v3_with_sparsectrl")
  weights = golden_files.weights(meta)

  def part(prefix, module):
    own = {k: x for k, x in weights.items() if k.startswith(prefix)}
    own = {k.removeprefix(prefix): x for k, x in own.items()}
    return pretrained.from_state_dict(module, own)

  params = {
    "base": part("unet.", WHOLE.base),
    "control": part("controlnet.", WHOLE.control),
  }
  apply = jax.jit(lambda params, *args: WHOLE.apply(params, *args))
  with jax.default_matmul_precision("highest"):
    out = apply(params, *inputs(arrays))
    assert error(out, arrays["out_sample"]) <= 1
    mute = jax.tree.map(np.zeros_like, params["control"])
    plain = apply({**params, "control": mute}, *inputs(arrays))
  assert error(plain, arrays["out_sample_plain"]) <= 1
  assert error(plain, arrays["out_sample"]) > 10


def test_a_fresh_control_network_says_nothing():
  """Its last layers, which the original's weights fill above, are zero."""
  module = MODULES["animatediff_sparsectrl_rgb"]
  arrays = golden_files.read("animatediff_sparsectrl_rgb")[1]

  @jax.jit
  def last_layers(key):
    params = flax.linen.unbox(module.init(key, *inputs(arrays)))["params"]
    return {name: x for name, x in params.items() if name.startswith("zero_")}

  layers = last_layers(jax.random.key(0))
  assert len(layers) == sum(name.startswith("out_") for name in arrays)
  for x in jax.tree.leaves(layers):
    np.testing.assert_array_equal(x, 0.0)


def test_a_hint_of_the_wrong_size_or_name_is_refused():
  module = MODULES["animatediff_sparsectrl_scribble"]
  x, t, cond = inputs(golden_files.read("animatediff_sparsectrl_rgb")[1])
  init = lambda cond: jax.eval_shape(module.init, jax.random.key(0), x, t, cond)
  with pytest.raises(ValueError, match="give it 8 times the size of x"):
    init(cond)
  with pytest.raises(KeyError, match="reads hints\\['sparse'\\]"):
    init(Conditioning(tokens=cond.tokens))
