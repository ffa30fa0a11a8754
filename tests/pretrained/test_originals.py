"""Networks of published systems, and what feeds them, compute what their code did.

golden/*.npz: tiny networks of Latte, DiT, LVDM, VideoCrafter, SVD and AnimateDiff, in
the original's names, see support/golden_files.py. Of some, every other column or every
third channel is kept; each depends on all of the input. A new one is one more row and
one more file, with `meta` (JSON: names and shapes of the state dict, the rule that
fills it), inputs `in_*` and outputs `out_*`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
from einops import rearrange

from tests.support import golden_files, parity_table, sparse_control, suite
from vdm_jax import pretrained
from vdm_jax.conditioning import Conditioning, Tokens
from vdm_jax.encoders import resampler
from vdm_jax.models.transformer import video_dit
from vdm_jax.models.unet import architectures
from vdm_jax.models.unet.unet3d import UNet3D
from vdm_jax.pretrained import state_dict

pytestmark = pytest.mark.usefixtures("unoptimized")

SD = dict(channels=(32, 64, 128, 128), layers=1)
PLAIN = dict(channels=(32, 64, 96, 128), layers=1)
MOTION = dict(channels=(32, 64, 64, 64), num_heads=4)
FRAMES = "(b t) c h w -> b t h w c"


def tokens(values):
  return Tokens(values, np.ones(values.shape[:2], bool))


def clips(forward, z):
  """[B, C, T, H, W], a text, perhaps an image behind it, and fps."""
  x = rearrange(z["in_x"], "b c t h w -> b t h w c")
  cond = Conditioning(vectors={"fps": z["in_fps"]} if "in_fps" in z else {})
  if "in_context" in z:
    cond.tokens["text"] = tokens(z["in_context"][:, :77])
    if z["in_context"].shape[1] > 77:
      cond.tokens["image"] = tokens(z["in_context"][:, 77:])
  if "in_y" in z:  # the last channel says which frames are given
    mask = x[:, :, :1, :1, -1:] > 0
    assert (x[..., -1:] == mask).all() and mask.any() and not mask.all()
    cond.vectors["augmentation"] = z["in_y"]
    x, cond = x[..., :-1], cond.replace(mask=mask)
  out = forward(x, z["in_timesteps"].astype(np.float32), cond)
  yield rearrange(out, "b t h w c -> b c t h w"), "sample"


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
      tokens={"image": tokens(z["in_context"][::t])},
      vectors=numbers | {"image_only": flag},
    )
    out = forward(x, z["in_timesteps"][::t].astype(np.float32), cond)
    yield rearrange(out, "b t h w c -> (b t) c h w"), name


def residuals(forward, z):
  """SparseCtrl's, which does not look at the noisy video."""
  x, t, cond = sparse_control.inputs(z)
  for noisy in (x, np.ones_like(x)):
    skips, middle = forward(noisy, t, cond)
    for i, skip in enumerate(skips):
      yield rearrange(skip, "b t h w c -> b c t h w"), f"down_{i}"
    yield rearrange(middle, "b t h w c -> b c t h w"), "mid"


def channels_second(forward):
  """The same of [B, T, C, H, W] and any numbers t."""

  def call(x, t, cond, **fields):
    x = rearrange(x, "b t c h w -> b t h w c")
    out = forward(x, t.astype(np.float32), cond, **fields)
    return rearrange(out, "b t h w c -> b t c h w")

  return call


def videos(forward, z):
  """One call on x [B, F, C, H, W]."""
  vectors = {"label": z["in_y"]} if "in_y" in z else {}
  if "in_text_embedding" in z:
    vectors["text"] = rearrange(z["in_text_embedding"], "b l d -> b (l d)")
  cond = Conditioning(vectors=vectors)
  yield channels_second(forward)(z["in_x"], z["in_t"], cond), "model"


def pictures(forward, z):
  """DiT's [B, C, H, W]: clips of one frame."""
  cond = Conditioning(vectors={"label": z["in_y"]})
  out = channels_second(forward)(z["in_x"][:, None], z["in_t"], cond)
  yield out[:, 0], "model"


def videos_and_images(forward, z):
  """The last four frames are images: clips of one frame with labels of their own."""
  x, images = np.split(z["in_x"], [-4], axis=1)
  images = rearrange(images, "b i c h w -> (b i) 1 c h w")
  video, image, forward = {}, {}, channels_second(forward)
  if "in_y" in z:
    video, image = {"label": z["in_y"]}, {"label": z["in_y_image"].ravel()}
  out = forward(x, z["in_t"], Conditioning(vectors=video))
  images = forward(images, np.repeat(z["in_t"], 4), Conditioning(vectors=image))
  images = rearrange(images, "(b i) 1 c h w -> b i c h w", i=4)
  yield np.concatenate([out, images], axis=1), "model"


def texts(forward, z):
  """LatteT2V on [B, C, F, H, W]: its text masked or not, without time, with images."""
  frames = lambda x: rearrange(x, "b c t h w -> b t c h w")
  single = lambda x: rearrange(x, "b c t h w -> (b t) 1 c h w")
  back = lambda x: rearrange(x, "(b t) 1 c h w -> b c t h w", b=2)
  names = "hidden_states", "timestep", "encoder_hidden_states"
  x, t, text = (z[f"in_{name}"] for name in names)
  mask, forward = z["in_encoder_attention_mask"], channels_second(forward)
  text_of = lambda *tokens: Conditioning(tokens={"text": Tokens(*tokens)})
  masked = forward(frames(x), t, text_of(text, mask))
  unmasked = forward(frames(x), t, text_of(text, np.ones_like(mask)))
  each = lambda x, n: np.repeat(x, n, axis=0)
  untimed = forward(single(x), each(t, 5), text_of(each(text, 5), each(mask, 5)))
  first = forward(single(x[:, :, :1]), t, text_of(text, mask))
  yield frames(masked), "masked"
  yield frames(unmasked), "unmasked"
  yield back(untimed), "masked_no_temporal"
  yield back(first), "single_frame"

  # In training with images, their code forgets the places in time.
  text, mask = z["in_joint_encoder_hidden_states"], z["in_joint_encoder_attention_mask"]
  video = text_of(text[:, 0], mask[:, 0])
  out = forward(frames(x), t, video, time_positions="none")
  image = text_of(*(rearrange(a[:, 1:], "b i ... -> (b i) ...") for a in (text, mask)))
  images = forward(single(z["in_images"]), each(t, 2), image)
  yield np.concatenate([frames(out), back(images)], axis=2), "joint_train"


@dataclasses.dataclass(frozen=True)
class Row:
  """A module, and which weights and fields to change in a negative control.

  Attributes:
    module: of ours.
    spoil: names of tensors, each changed in turn; none: all.
    other: fields of another architecture, which gives something else.
    calls: (forward, recorded arrays) -> pairs of an output and its name.
    guided_channels: to which the original applies guidance, as its code has it.
  """

  module: Any
  spoil: tuple
  other: dict = dataclasses.field(default_factory=dict)
  calls: Callable = clips
  guided_channels: int = 0


def dit(calls, depth, *spoil, guided_channels=0, **fields):
  fields = dict(out_channels=8, patch=2, width=48, num_heads=4) | fields
  module = video_dit.VideoDiT(depth=depth, **fields)
  return Row(module, spoil or DIT, calls=calls, guided_channels=guided_channels)


def unet(architecture, spoil, *args):
  return Row(UNet3D(architecture), (spoil,), *args)


DIT = ("blocks.1.attn.qkv.weight", "x_embedder.proj.bias", "blocks.2.mlp.fc1.weight")
UP = "output_blocks.1.1."
ROWS = {
  "latte_class": dit(videos, 4, num_classes=7, guided_channels=4),
  "latte_uncond": dit(videos, 4),
  "latte_text": dit(
    videos,
    4,
    "text_embedding_projection.1.weight",
    "blocks.1.attn.qkv.weight",
    text="pooled",
    width=24,
  ),
  # Trained without dropping classes, it has no row for "no class": the last is there.
  "latte_joint_images": dit(videos_and_images, 4, num_classes=6, one_frame="image"),
  "latte_joint_images_uncond": dit(videos_and_images, 4, one_frame="image"),
  "latte_t2v": dit(
    texts,
    4,
    "transformer_blocks.1.attn2.to_k.weight",
    "temporal_transformer_blocks.0.attn1.to_q.weight",
    "scale_shift_table",
    "caption_projection.linear_1.bias",
    num_heads=3,
    modulation="shared",
    text="cross",
    one_frame="image",
    space_span=4,
  ),
  "dit": dit(pictures, 3, num_classes=10, layout=("spatial",), guided_channels=3),
  "lvdm_short": unet(architectures.lvdm(**PLAIN), UP + "qkv_t.weight"),
  "lvdm_pred": unet(architectures.lvdm_long(**PLAIN), "label_emb.weight"),
  "lvdm_interp": unet(
    architectures.lvdm_long(max_frames=5, **PLAIN),
    UP + "relative_position_v.embeddings_table",
  ),
  "lvdm_t2v": unet(
    architectures.lvdm_text(num_heads=4, **SD),
    "middle_block.1.transformer_blocks.0.attn2_tmp.to_v.weight",
    dict(norm_over="frame"),
  ),
  "videocrafter1_t2v": unet(
    architectures.videocrafter1(head_dim=16, **SD),
    "init_attn.0.proj_out.weight",
    dict(norm_over="clip"),
  ),
  "videocrafter1_i2v": unet(
    architectures.videocrafter2(head_dim=16, image_keys=True, **SD),
    "middle_block.1.transformer_blocks.0.attn2.to_v_ip.weight",
  ),
  "videocrafter2_t2v": unet(
    architectures.videocrafter2(head_dim=16, **SD | dict(layers=2)),
    "middle_block.0.temopral_conv.conv3.3.weight",
  ),
  "svd_unet": unet(
    architectures.svd(head_dim=16, joint_frequencies=32, **SD),
    "middle_block.1.time_mixer.mix_factor",
    dict(level_epsilon=1e-6),
    frames,
  ),
  **{
    f"animatediff_v{version}": unet(
      architectures.animatediff(version=version, **MOTION),
      "up_blocks.3.motion_modules.1.temporal_transformer.proj_in.weight",
      dict(norm_over="frame") if version == 1 else {},
    )
    for version in (1, 2, 3)
  },
  **{
    name: Row(
      module,
      ("down_blocks.0.motion_modules.0.temporal_transformer.proj_in.weight",),
      calls=residuals,
    )
    for name, module in sparse_control.MODULES.items()
  },
  "videocrafter1_resampler": Row(
    resampler.Resampler(
      depth=2, width=48, num_heads=3, head_dim=16, embedding=40, queries=5, features=24
    ),
    (),
    calls=lambda forward, z: [(forward(z["in_x"]), "tokens")],
  ),
}


class Case:
  """A row, its weights, and `module` on what was recorded."""

  def __init__(self, name, module=None):
    self.row, (meta, self.arrays) = ROWS[name], golden_files.read(name)
    self.name, self.weights = name, golden_files.weights(meta)
    self.module = module or self.row.module

    apply = lambda params, *args, **fields: self.module.clone(**fields).apply(
      params, *args
    )
    self.apply = jax.jit(apply, static_argnames="time_positions")

  def forward(self, **changes):
    """(*inputs, **fields of the module) -> outputs, with some tensors changed."""
    params = pretrained.from_state_dict(self.module, self.weights | changes)

    def forward(*args, **fields):
      with jax.default_matmul_precision("highest"):
        return jax.tree.map(np.asarray, self.apply(params, *args, **fields))

    return forward

  def error(self, **changes):
    """The largest difference in units of the tolerance, over all that was recorded."""
    worst, seen = 0.0, {"with_cfg"}
    for out, name in self.row.calls(self.forward(**changes), self.arrays):
      expected = self.arrays[f"out_{name}"]
      steps = (round(n / m) for n, m in zip(out.shape, expected.shape, strict=True))
      out = out[tuple(slice(None, None, step) for step in steps)]
      worst = max(worst, float(golden_files.error(out, expected)))
      seen.add(name)
    assert {k for k in self.arrays if k[:4] == "out_"} <= {f"out_{k}" for k in seen}
    return worst


# These differ from others by a number, of frames, of layers, of motion modules, or by
# what they lack, and the networks of SparseCtrl and AnimateDiff 3 are those of
# tables/unet/test_sparse_control.py.
SIMILAR = ("lvdm_short", "lvdm_interp", "videocrafter2_t2v", "latte_uncond")
SIMILAR += ("latte_joint_images_uncond", "animatediff_sparsectrl_rgb")
SIMILAR += ("animatediff_v1", "animatediff_v2", "animatediff_v3")
NAMES = sorted(ROWS, key=lambda name: name in SIMILAR)
QUICK = [name for name in NAMES if name not in SIMILAR]
compared = pytest.mark.parametrize("case", suite.choose(NAMES, *QUICK), indirect=True)


@pytest.fixture(scope="module", params=suite.choose(NAMES, *QUICK, "animatediff_v2"))
def case(request):
  return Case(request.param)


@compared
def test_it_computes_what_the_original_computed(case, record_property):
  error = case.error()
  assert error <= 1
  row = f"the original's outputs: {case.name}"
  parity_table.note_error(record_property, row, error)


@compared
def test_a_changed_tensor_is_seen(case):
  for name in case.row.spoil or case.weights:
    x = case.weights[name]
    assert case.error(**{name: x + 0.5 * (1 + np.abs(x))}) > 10, name


@compared
def test_classifier_free_guidance_is_the_originals(case):
  if not (guided := case.row.guided_channels):
    assert "out_with_cfg" not in case.arrays
    return
  scale = 7.0 if case.row.calls is videos else 4.0
  doubled = {k: case.arrays[k][[0, 0]] for k in ("in_x", "in_t", "in_y")}
  doubled["in_y"][1] = case.module.num_classes  # no class
  ((out, _),) = case.row.calls(case.forward(), doubled)
  (full, empty), rest = np.split(out, [guided], axis=-3)
  half = empty + scale * (full - empty)
  out = np.concatenate([np.stack([half, half]), rest], axis=-3)
  assert golden_files.error(out, case.arrays["out_with_cfg"]) <= 1


def test_weights_come_back_bit_for_bit(case):
  params = pretrained.from_state_dict(case.module, case.weights)
  ignored = {k: x for k, x in case.weights.items() if k.endswith("y_embedding")}
  table = state_dict.table_of(case.module, case.weights)
  back = pretrained.to_state_dict(case.module, params, ignored=ignored, table=table)
  back = {k: x for k, x in back.items() if not k.endswith("pos_encoder.pe")}
  assert back.keys() == case.weights.keys()
  for name, x in case.weights.items():
    np.testing.assert_array_equal(back[name], x, strict=True)


def test_only_animatediff_1_has_statistics_over_clips():
  """As the outputs say, in the complete suite."""
  norms = [ROWS[f"animatediff_v{i}"].module.config.norm_over for i in (1, 2, 3)]
  assert norms == ["clip", "frame", "frame"]


OTHERS = [name for name, row in ROWS.items() if row.other]


@pytest.mark.complete
@pytest.mark.parametrize("name", OTHERS)
def test_another_architecture_with_the_same_weights_is_another_network(name):
  """Statistics over frame or clip: the difference that is missed most often."""
  row = ROWS[name]
  other = dataclasses.replace(row.module.config, **row.other)
  # SVD's epsilon is the finest of these: 5e-5, below the tolerance for any network.
  assert Case(name, UNet3D(other)).error() > (0.1 if name == "svd_unet" else 10)
