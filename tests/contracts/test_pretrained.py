"""Published weights compute in our modules what they compute in the original code.

A new table is one more line in ORIGINALS and one recorded output in tests/golden: an
.npz with `meta` (JSON: names and shapes of the state dict, the rule that fills it),
inputs `in_*` and outputs `out_*`.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import numpy as np
import pytest
from einops import rearrange

from tests.support import golden_files
from vdm_jax import pretrained
from vdm_jax.conditioning import Conditioning, Tokens
from vdm_jax.models.transformer import video_dit

DIT = dict(out_channels=8, patch=2, width=48, num_heads=4)


def videos(forward, z):
  """[(out, wanted)] of one call on x [B, F, C, H, W]."""
  vectors = {"label": z["in_y"]} if "in_y" in z else {}
  if "in_text_embedding" in z:
    vectors["text"] = rearrange(z["in_text_embedding"], "b l d -> b (l d)")
  cond = Conditioning(vectors=vectors)
  return [(forward(z["in_x"], z["in_t"], cond), z["out_model"])]


def pictures(forward, z):
  """DiT's [B, C, H, W]: clips of one frame."""
  cond = Conditioning(vectors={"label": z["in_y"]})
  return [(forward(z["in_x"][:, None], z["in_t"], cond)[:, 0], z["out_model"])]


def videos_and_images(forward, z):
  """The last four frames are images: clips of one frame with labels of their own."""
  x, images = np.split(z["in_x"], [-4], axis=1)
  images = rearrange(images, "b i c h w -> (b i) 1 c h w")
  told, image = {}, {}
  if "in_y" in z:
    told, image = {"label": z["in_y"]}, {"label": z["in_y_image"].ravel()}
  out = forward(x, z["in_t"], Conditioning(vectors=told))
  images = forward(images, np.repeat(z["in_t"], 4), Conditioning(vectors=image))
  images = rearrange(images, "(b i) 1 c h w -> b i c h w", i=4)
  return [(np.concatenate([out, images], axis=1), z["out_model"])]


def texts(forward, z):
  """LatteT2V on [B, C, F, H, W]: its text masked or not, without time, with images."""
  frames = lambda x: rearrange(x, "b c t h w -> b t c h w")
  alone = lambda x: rearrange(x, "b c t h w -> (b t) 1 c h w")
  back = lambda x: rearrange(x, "(b t) 1 c h w -> b c t h w", b=2)
  x, t, text = (
    z[f"in_{k}"] for k in ("hidden_states", "timestep", "encoder_hidden_states")
  )
  mask = z["in_encoder_attention_mask"]

  def told(values, mask):
    return Conditioning(tokens={"text": Tokens(values, mask)})

  masked = forward(frames(x), t, told(text, mask))
  unmasked = forward(frames(x), t, told(text, np.ones_like(mask)))
  each = lambda x, n: np.repeat(x, n, axis=0)
  untimed = forward(alone(x), each(t, 5), told(each(text, 5), each(mask, 5)))
  first = forward(alone(x[:, :, :1]), t, told(text, mask))
  yield frames(masked), z["out_masked"]
  yield frames(unmasked), z["out_unmasked"]
  yield back(untimed), z["out_masked_no_temporal"]
  yield back(first), z["out_single_frame"]

  # In training with images, their code forgets the places in time.
  text, mask = z["in_joint_encoder_hidden_states"], z["in_joint_encoder_attention_mask"]
  video = told(text[:, 0], mask[:, 0])
  out = forward(frames(x), t, video, time_positions="none")
  image = told(*(rearrange(a[:, 1:], "b i ... -> (b i) ...") for a in (text, mask)))
  images = forward(alone(z["in_images"]), each(t, 2), image)
  yield np.concatenate([frames(out), back(images)], axis=2), z["out_joint_train"]


@dataclasses.dataclass(frozen=True)
class Original:
  """How to repeat what was recorded, and which of its tensors to change in a test."""

  module: video_dit.VideoDiT
  calls: Callable = videos
  keys: tuple = (
    "blocks.1.attn.qkv.weight",
    "x_embedder.proj.bias",
    "blocks.2.mlp.fc1.weight",
  )
  guided_channels: int = 0  # hard-coded in the originals


ORIGINALS = {
  "latte_class": Original(
    video_dit.VideoDiT(depth=4, num_classes=7, **DIT), guided_channels=4
  ),
  "latte_uncond": Original(video_dit.VideoDiT(depth=4, **DIT)),
  "latte_text": Original(
    video_dit.VideoDiT(depth=4, text="pooled", **DIT | dict(width=24)),
    keys=("text_embedding_projection.1.weight", "blocks.1.attn.qkv.weight"),
  ),
  # Trained without dropping classes, it has no row for "no class": the last is there.
  "latte_joint_images": Original(
    video_dit.VideoDiT(depth=4, num_classes=6, one_frame="image", **DIT),
    videos_and_images,
  ),
  "latte_joint_images_uncond": Original(
    video_dit.VideoDiT(depth=4, one_frame="image", **DIT), videos_and_images
  ),
  "latte_t2v": Original(
    video_dit.VideoDiT(
      depth=4,
      modulation="shared",
      text="cross",
      one_frame="image",
      space_span=4,
      **DIT | dict(num_heads=3),
    ),
    texts,
    keys=(
      "transformer_blocks.1.attn2.to_k.weight",
      "temporal_transformer_blocks.0.attn1.to_q.weight",
      "scale_shift_table",
      "caption_projection.linear_1.bias",
    ),
  ),
  "dit": Original(
    video_dit.VideoDiT(depth=3, num_classes=10, layout=("spatial",), **DIT),
    pictures,
    guided_channels=3,
  ),
}


@pytest.fixture(scope="module", params=ORIGINALS)
def original(request):
  """(Original, state dict, recorded arrays, params -> forward)."""
  name = request.param
  meta, arrays = golden_files.read(name)
  weights = golden_files.weights(meta)
  module = ORIGINALS[name].module

  @functools.partial(jax.jit, static_argnames="time_positions")
  def apply(params, x, t, cond, time_positions):
    same = module.clone(time_positions=time_positions)
    with jax.default_matmul_precision("highest"):
      return same.apply({"params": params}, x, t.astype(np.float32), cond)

  def with_params(params):
    def forward(x, t, cond, time_positions="absolute"):
      """[B, T, C, H, W] -> [B, T, C_out, H, W]."""
      x = rearrange(x, "b t c h w -> b t h w c")
      out = apply(params, x, t, cond, time_positions)
      return np.asarray(rearrange(out, "b t h w c -> b t c h w"))

    return forward

  return ORIGINALS[name], weights, arrays, with_params


def error(out, wanted):
  """In units of the tolerance: equal means at most 1."""
  assert out.shape == wanted.shape
  return np.abs(out - wanted).max() / (1e-4 * max(1.0, np.abs(wanted).max()))


def params_of(original, weights):
  return pretrained.from_state_dict(original.module, weights)


def test_the_module_computes_what_the_original_computed(original):
  source, weights, arrays, with_params = original
  outputs = list(source.calls(with_params(params_of(source, weights)), arrays))
  recorded = [k for k in arrays if k.startswith("out_") and k != "out_with_cfg"]
  assert len(outputs) == len(recorded)
  assert [error(out, wanted) <= 1 for out, wanted in outputs] == [True] * len(outputs)


def test_one_changed_tensor_is_seen(original):
  source, weights, arrays, with_params = original
  for key in source.keys:
    changed = weights | {key: np.roll(weights[key], 1, axis=0)}
    out, wanted = next(
      iter(source.calls(with_params(params_of(source, changed)), arrays))
    )
    assert error(out, wanted) > 10, key


def test_classifier_free_guidance_equals_the_originals(original):
  source, weights, arrays, with_params = original
  if not source.guided_channels:
    assert "out_with_cfg" not in arrays
    return
  scale = 7.0 if source.calls is videos else 4.0
  doubled = {k: arrays[k][[0, 0]] for k in ("in_x", "in_t", "in_y")}
  doubled["in_y"][1] = source.module.num_classes  # no class
  doubled["out_model"] = arrays["out_with_cfg"]
  forward = with_params(params_of(source, weights))
  [(out, wanted)] = source.calls(forward, doubled)
  axis = -3
  guided, rest = np.split(out, [source.guided_channels], axis=axis)
  told, untold = guided
  half = untold + scale * (told - untold)
  out = np.concatenate([np.stack([half, half]), rest], axis=axis)
  assert error(out, wanted) <= 1


def test_weights_come_back_bit_for_bit(original):
  source, weights, _, _ = original
  params = params_of(source, weights)
  ignored = {k: weights[k] for k in weights if k.endswith("y_embedding")}
  back = pretrained.to_state_dict(source.module, params, ignored=ignored)
  assert back.keys() == weights.keys()
  for key, value in weights.items():
    np.testing.assert_array_equal(back[key], value, strict=True)
  again = params_of(source, back)
  jax.tree.map(np.testing.assert_array_equal, params, again)


def test_every_fault_is_listed_in_one_error(original):
  source, weights, _, _ = original
  first, *_, last = (name for name in weights if name.endswith(".bias"))
  odd = "transformer_blocks.9.attn.proj.bias"
  faulty = {k: v for k, v in weights.items() if k != last}
  faulty |= {first: np.zeros(7), odd: np.zeros(48)}
  with pytest.raises(ValueError) as caught:
    params_of(source, faulty)
  message = str(caught.value)
  assert "3 problems" in message
  assert f"{last} is missing" in message
  wanted = weights[first].shape
  assert f"{first} has shape (7,), expected {wanted}" in message
  assert f"{odd} is not of this model" in message
