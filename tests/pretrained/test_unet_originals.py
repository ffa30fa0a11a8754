"""The U-Nets of published systems compute what their own code computed.

golden/*.npz: tiny networks of LVDM, VideoCrafter, Stable Video Diffusion and
AnimateDiff, in the original's names, see support/golden_files.py. Of some, every other
column of the output is kept; it depends on all of the input.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
from einops import rearrange

from tests.support import golden_files, parity_table, suite
from vdm_jax import pretrained
from vdm_jax.conditioning import Conditioning, Tokens
from vdm_jax.models.unet import architectures
from vdm_jax.models.unet.unet3d import UNet3D
from vdm_jax.pretrained import state_dict

SD = dict(channels=(32, 64, 128, 128), layers=1)
PLAIN = dict(channels=(32, 64, 96, 128), layers=1)
MOTION = dict(channels=(32, 64, 64, 64), num_heads=4)
FRAMES = "(b t) c h w -> b t h w c"


def told(values):
  return Tokens(values, np.ones(values.shape[:2], bool))


def clips(forward, z):
  """[(out, wanted)]: [B, C, T, H, W], a text, perhaps an image behind it, and fps."""
  x = rearrange(z["in_x"], "b c t h w -> b t h w c")
  cond = Conditioning(vectors={"fps": z["in_fps"]} if "in_fps" in z else {})
  if "in_context" in z:
    cond.tokens["text"] = told(z["in_context"][:, :77])
    if z["in_context"].shape[1] > 77:
      cond.tokens["image"] = told(z["in_context"][:, 77:])
  if "in_y" in z:  # the last channel says which frames are given
    mask = x[:, :, :1, :1, -1:] > 0
    assert (x[..., -1:] == mask).all() and mask.any() and not mask.all()
    cond.vectors["augmentation"] = z["in_y"]
    x, cond = x[..., :-1], cond.replace(mask=mask)
  out = forward(x, z["in_timesteps"], cond)
  yield rearrange(out, "b t h w c -> b c t h w"), z["out_sample"]


def frames(forward, z):
  """SVD's: frames side by side in the batch, some of which may see no others."""
  t = int(z["in_num_video_frames"])
  x = rearrange(z["in_x"], FRAMES, t=t)
  # The recorded vector is no sinusoid of three numbers, but three times its width.
  parts = np.split(z["in_y"][::t], 3, axis=1)
  numbers = dict(zip(("fps", "motion", "augmentation"), parts, strict=True))
  mixed = z["in_image_only_mixed"]
  flags = {"sample": 0 * mixed, "sample_mixed": mixed, "sample_image": 1 + 0 * mixed}
  for name, flag in flags.items():
    cond = Conditioning(
      tokens={"image": told(z["in_context"][::t])},
      vectors=numbers | {"image_only": flag},
    )
    out = forward(x, z["in_timesteps"][::t], cond)
    yield rearrange(out, "b t h w c -> (b t) c h w"), z[f"out_{name}"]


@dataclasses.dataclass(frozen=True)
class Row:
  """An architecture, and which weights and fields to change in a negative control."""

  architecture: Any
  spoil: str
  other: dict = dataclasses.field(default_factory=dict)
  calls: Callable = clips


UP = "output_blocks.1.1."
ROWS = {
  "lvdm_short": Row(architectures.lvdm(**PLAIN), UP + "qkv_t.weight"),
  "lvdm_pred": Row(architectures.lvdm_long(**PLAIN), "label_emb.weight"),
  "lvdm_interp": Row(
    architectures.lvdm_long(max_frames=5, **PLAIN),
    UP + "relative_position_v.embeddings_table",
  ),
  "lvdm_t2v": Row(
    architectures.lvdm_text(num_heads=4, **SD),
    "middle_block.1.transformer_blocks.0.attn2_tmp.to_v.weight",
    dict(norm_over="frame"),
  ),
  "videocrafter1_t2v": Row(
    architectures.videocrafter1(head_dim=16, **SD),
    "init_attn.0.proj_out.weight",
    dict(norm_over="clip"),
  ),
  "videocrafter1_i2v": Row(
    architectures.videocrafter2(head_dim=16, image_keys=True, **SD),
    "middle_block.1.transformer_blocks.0.attn2.to_v_ip.weight",
  ),
  "videocrafter2_t2v": Row(
    architectures.videocrafter2(head_dim=16, **SD | dict(layers=2)),
    "middle_block.0.temopral_conv.conv3.3.weight",
  ),
  "svd_unet": Row(
    architectures.svd(head_dim=16, joint_frequencies=32, **SD),
    "middle_block.1.time_mixer.mix_factor",
    dict(level_epsilon=1e-6),
    frames,
  ),
  **{
    f"animatediff_v{version}": Row(
      architectures.animatediff(version=version, **MOTION),
      "up_blocks.3.motion_modules.1.temporal_transformer.proj_in.weight",
      dict(norm_over="frame") if version == 1 else {},
    )
    for version in (1, 2, 3)
  },
}


@dataclasses.dataclass
class Case:
  row: Row
  weights: dict
  arrays: dict
  module: UNet3D

  @functools.cached_property
  def forward(self):
    """(params) -> forward."""
    apply = jax.jit(lambda params, *args: self.module.apply(params, *args))

    def with_params(params):
      def forward(x, t, cond):
        with jax.default_matmul_precision("highest"):
          return np.asarray(apply(params, x, t.astype(np.float32), cond))

      return forward

    return with_params

  def error(self, weights):
    """The largest difference, in units of the tolerance."""
    params = pretrained.from_state_dict(self.module, weights)
    worst = 0.0
    for out, wanted in self.row.calls(self.forward(params), self.arrays):
      out = out[..., :: round(out.shape[-1] / wanted.shape[-1])]
      assert out.shape == wanted.shape
      bound = golden_files.TOLERANCE * max(1.0, np.abs(wanted).max())
      worst = max(worst, np.abs(out - wanted).max() / bound)
    return float(worst)


@pytest.fixture(scope="module", params=ROWS)
def case(request):
  meta, arrays = golden_files.read(request.param)
  row = ROWS[request.param]
  return Case(row, golden_files.weights(meta), arrays, UNet3D(row.architecture))


def test_it_computes_what_the_original_computed(case, request, record_property):
  error = case.error(case.weights)
  assert error <= 1
  name = request.node.callspec.params["case"]
  parity_table.note(
    record_property,
    f"U-Net, the original's outputs: {name}",
    error=golden_files.TOLERANCE * error,
    bound=golden_files.TOLERANCE,
    unit="max(1, max\\|ref\\|)",
  )


def test_one_changed_tensor_is_seen(case):
  x = case.weights[case.row.spoil]
  spoiled = case.weights | {case.row.spoil: x + 0.5 * (1 + np.abs(x))}
  assert case.error(spoiled) > 10


def test_weights_come_back_bit_for_bit(case):
  params = pretrained.from_state_dict(case.module, case.weights)
  table = state_dict.table_of(case.module, case.weights)
  back = pretrained.to_state_dict(case.module, params, table=table)
  back = {k: x for k, x in back.items() if not k.endswith("pos_encoder.pe")}
  assert back.keys() == case.weights.keys()
  for name, x in case.weights.items():
    np.testing.assert_array_equal(back[name], x, strict=True)


OTHERS = [name for name, row in ROWS.items() if row.other]


# One epsilon is the finest difference of them.
@pytest.mark.parametrize("name", suite.choose(OTHERS, "svd_unet"))
def test_another_architecture_with_the_same_weights_is_another_network(name):
  """Statistics over frame or clip: the difference that is missed most often."""
  row = ROWS[name]
  other = dataclasses.replace(row.architecture, **row.other)
  meta, arrays = golden_files.read(name)
  case = Case(row, golden_files.weights(meta), arrays, UNet3D(other))
  # SVD's epsilon is the finest of these: 5e-5, below the tolerance for any network.
  assert case.error(case.weights) > (0.1 if name == "svd_unet" else 10)
