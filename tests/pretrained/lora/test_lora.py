"""Published LoRAs run and merge to the same sums, whatever they call their layers."""

import functools
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from vdm_jax.models import lora as running
from vdm_jax.models.transformer.video_dit import VideoDiT
from vdm_jax.models.unet import architectures, unet3d
from vdm_jax.pretrained import state_dict
from vdm_jax.pretrained.lora import lora
from vdm_jax.pretrained.lora import names as lora_names
from vdm_jax.pretrained.tables import registry
from vdm_jax.pretrained.tables.table import Table
from vdm_jax.pretrained.tables.unet.animatediff import TABLE as ANIMATEDIFF

LAYERS = ("to_q", "to_k", "to_v", "to_out.0")
WIDTH, RANK = 6, 2
PREFIX = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"


class Mixed(nn.Module):
  """Four linear layers in a row, named as an attention's."""

  param_dtype = jnp.float32

  @nn.compact
  def __call__(self, x):
    for name in ("q", "k", "v", "out"):
      x = nn.Dense(WIDTH, use_bias=False, name=name)(x)
    return x


@pytest.fixture
def table(monkeypatch):
  """The table of Mixed, in place of all others."""
  names = zip(("q", "k", "v", "out"), LAYERS, strict=True)
  names = {ours: f"{PREFIX}.{theirs}" for ours, theirs in names}
  made = Table(
    module_class=Mixed,
    names=lambda module: names,
    inputs=lambda module: (jnp.zeros((1, WIDTH)),),
  )
  monkeypatch.setattr(registry, "TABLES", (made,))


@pytest.fixture(scope="module")
def layers():
  """({layer: (W, down, up)} as in files, x, their output by scale)."""
  rng = np.random.default_rng(0)
  normal = lambda *shape: (rng.standard_normal(shape) / 2).astype(np.float32)
  arrays = {
    name: (normal(WIDTH, WIDTH), normal(RANK, WIDTH), normal(WIDTH, RANK))
    for name in LAYERS
  }
  x = normal(5, WIDTH)

  def output(scale):
    h = x
    for w, down, up in arrays.values():
      h = h @ w.T + scale * (h @ down.T) @ up.T
    return h

  return arrays, x, output


FORMS = {
  "AnimateDiff": "{prefix}.processor.{plain}_lora.{part}.weight",
  "of several devices": "module.{prefix}.processor.{plain}_lora.{part}.weight",
  "swift": "{prefix}.{layer}.lora_{letter}.default.weight",
  "peft": "base_model.model.{prefix}.{layer}.lora_{letter}.weight",
  "diffusers": "unet.{prefix}.{layer}.lora_{letter}.weight",
  "diffusers, older": "{prefix}.{layer}.lora.{part}.weight",
  "kohya": "lora_unet_{flat}.lora_{part}.weight",
}


def name_of(layer, part, form="AnimateDiff"):
  """Of the "down" or "up" of a layer, as that form of files has it."""
  return FORMS[form].format(
    prefix=PREFIX,
    layer=layer,
    plain=layer.removesuffix(".0"),
    flat=f"{PREFIX}.{layer}".replace(".", "_"),
    part=part,
    letter={"down": "A", "up": "B"}[part],
  )


def lora_of(arrays, form="AnimateDiff"):
  parts = {"down": 1, "up": 2}
  names = [(layer, part) for layer in arrays for part in parts]
  return {name_of(*at, form): arrays[at[0]][parts[at[1]]] for at in names}


def base_of(arrays):
  return {f"{PREFIX}.{name}.weight": w for name, (w, _, _) in arrays.items()}


def merged(params, own, x):
  return np.asarray(Mixed().apply({"params": running.merge(params, own)}, x))


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_sum_of_two_paths(table, layers, form):
  arrays, x, output = layers
  found = lora_of(arrays, form)
  params = state_dict.from_state_dict(Mixed(), base_of(arrays))
  own = lora.factors_from_state_dict(Mixed(), found, 0.8)
  network = running.Lora(Mixed(), "kernel", rank=RANK)
  both = lora.merge_state_dict(base_of(arrays), found, 0.8)
  both = state_dict.from_state_dict(Mixed(), both)
  expected = output(0.8)
  for out in (
    network.apply({"base": params, "lora": own}, x),
    merged(params, own, x),
    Mixed().apply({"params": both}, x),
  ):
    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-5)
  assert np.abs(output(0.7) - expected).max() > 1e-3, "a scale that is off is seen"


def test_kohyas_alpha_is_shared_by_the_ranks(table, layers):
  arrays, x, output = layers
  found = lora_of(arrays, "kohya")
  for name in [n for n in found if n.endswith("lora_up.weight")]:
    found[name.replace("lora_up.weight", "alpha")] = np.float32(3.0)
  params = state_dict.from_state_dict(Mixed(), base_of(arrays))
  out = merged(params, lora.factors_from_state_dict(Mixed(), found), x)
  np.testing.assert_allclose(out, output(3.0 / RANK), rtol=0, atol=1e-5)


def test_magic_adapter_s_counts_four_times(table, layers):
  arrays, x, output = layers
  params = state_dict.from_state_dict(Mixed(), base_of(arrays))
  scale = lora_names.MAGIC_ADAPTER_S
  out = merged(params, lora.factors_from_state_dict(Mixed(), lora_of(arrays), scale), x)
  twice = {k: 2 * x for k, x in lora_of(arrays).items()}  # both, as its loader does
  same = merged(params, lora.factors_from_state_dict(Mixed(), twice), x)
  np.testing.assert_allclose(out, same, rtol=0, atol=1e-5)
  np.testing.assert_allclose(out, output(4.0), rtol=0, atol=1e-4)
  assert np.abs(out - output(2.0)).max() > 1e-2


def test_what_does_not_fit_stands_in_one_list(table, layers):
  arrays, _, _ = layers
  found = lora_of(arrays)
  found[f"{PREFIX}.processor.to_x_lora.down.weight"] = np.zeros((RANK, WIDTH))
  found[f"{PREFIX}.processor.to_x_lora.up.weight"] = np.zeros((WIDTH, RANK))
  found[f"{PREFIX}.to_q.lora_magnitude_vector"] = np.zeros(WIDTH)
  found[f"{PREFIX}.to_v.lora_A.other.weight"] = np.zeros((RANK, WIDTH))
  found[name_of("to_k", "up")] = np.zeros((WIDTH + 1, RANK))
  del found[name_of("to_out.0", "up")]
  for fails in (
    lambda: lora.factors_from_state_dict(Mixed(), found),
    lambda: lora.merge_state_dict(base_of(arrays), found),
  ):
    with pytest.raises(ValueError, match="5 problems") as error:
      fails()
    for part in (
      "attn1.to_x.weight is no weight of",
      "lora_magnitude_vector is no part of a LoRA",
      "to_v.lora_A.other.weight is there twice",
      "up (7, 2) and down (2, 6) are no product of shape (6, 6)",
      "attn1.to_out.0 needs a down and an up",
    ):
      assert part in str(error.value)


def test_a_file_of_two_parts_is_read_part_by_part(table, layers):
  """And it may leave layers out."""
  arrays, _, _ = layers
  own = lora.factors_from_state_dict(Mixed(), lora_of({"to_k": arrays["to_k"]}))
  assert set(own) == {"k"}
  text = {
    f"lora_te_text_model_encoder_layers_0_mlp_fc1.lora_{part}.weight": np.zeros((2, 2))
    for part in ("down", "up")
  }
  found = lora_of(arrays, "kohya") | text
  with pytest.raises(ValueError, match="select_network"):
    lora.factors_from_state_dict(Mixed(), found)
  unet = lora_names.select_network(found, "unet")
  assert unet == lora_of(arrays, "kohya")
  assert set(lora_names.select_network(found, "text_encoder")) == set(text)
  assert set(lora.factors_from_state_dict(Mixed(), unet)) == {"q", "k", "v", "out"}


def test_an_adapters_folder_has_its_scale(table, layers, tmp_path):
  arrays, x, output = layers
  path = tmp_path / "adapter_model.safetensors"
  safetensors.numpy.save_file(lora_of(arrays, "swift"), path)
  (tmp_path / "adapter_config.json").write_text(json.dumps(dict(r=RANK, lora_alpha=3)))
  params = state_dict.from_state_dict(Mixed(), base_of(arrays))
  for at in (tmp_path, path):
    added = lora.merge_file(params, path=at, module=Mixed(), scale=0.4)
    out = Mixed().apply({"params": added}, x)
    np.testing.assert_allclose(out, output(0.4 * 3 / RANK), rtol=0, atol=1e-5)
  assert lora.merge_file(params, path="", module=Mixed()) is params


def test_a_file_without_a_name_that_fits_is_shown_beside_those_that_would(
  table, layers
):
  arrays, _, _ = layers
  loha = {f"lora_unet_a.hada_w{n}": np.ones((2, 2)) for n in ("1_a", "1_b", "2_a")}
  other = {k.replace("down_blocks", "blocks"): x for k, x in lora_of(arrays).items()}
  for state, message in (
    ({}, r"0 names, such as \(none\), none is .*down_blocks.0.*to_k.weight"),
    ({"state_dict": {}}, "none is of a matrix down or up"),
    (other, "of its 8 names, such as blocks.0.attentions.0.*, none is of a matrix"),
    (loha, "such as lora_unet_a.hada_w1_a.* They are names of LoHa, which is not read"),
    (loha | {"lora_unet_a.alpha": np.float32(1)}, "names of LoHa"),
    ({"a.to_q.lokr_w1": np.ones((2, 2))}, "names of LoKr"),
    ({"a.to_q.diff": np.ones((2, 2))}, "names of LyCORIS"),
  ):
    for call in (
      lambda state=state: lora.factors_from_state_dict(Mixed(), state),
      lambda state=state: lora.merge_state_dict(base_of(arrays), state),
    ):
      with pytest.raises(ValueError, match=message):
        call()
  with pytest.raises(ValueError, match="no part for the text_encoder.*lora_unet_a"):
    lora_names.select_network(loha, "text_encoder")


def test_animatediffs_adapter_and_motion_lora_fit_its_unet():
  """Its own code's names; running and merging in either names give the same weights."""
  small = architectures.animatediff(
    channels=(32, 64), layers=1, attention=(True, False), num_heads=2
  )
  module = unet3d.UNet3D(small)
  names = {
    name: shape
    for name, shape in originals_of(module).items()
    if any(f".{layer}.weight" in name for layer in LAYERS)
  }
  rng = np.random.default_rng(0)
  normal = lambda *shape: rng.standard_normal(shape).astype(np.float32)
  adapter, motion = {}, {}
  for name, (o, i) in names.items():
    kind = motion if "motion_modules" in name else adapter
    layer, _, end = name.removesuffix(".weight").removesuffix(".0").rpartition(".")
    kind[f"{layer}.processor.{end}_lora.down.weight"] = normal(RANK, i)
    kind[f"{layer}.processor.{end}_lora.up.weight"] = normal(o, RANK)
  assert len(adapter) == 2 * 4 * 2 * 4, "four transformers of two attentions"
  assert len(motion) == 2 * 4 * 2 * 7, "seven motion modules of two attentions"

  base = {name: normal(*shape) for name, shape in originals_of(module).items()}
  both = lora.merge_state_dict(base, adapter)
  both = lora.merge_state_dict(both, motion, 0.5)
  expected = state_dict.from_state_dict(module, both)
  params = state_dict.from_state_dict(module, base)
  out = running.merge(params, lora.factors_from_state_dict(module, adapter))
  out = running.merge(out, lora.factors_from_state_dict(module, motion, 0.5))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), out, expected)


def test_at_full_size_they_have_the_size_of_the_published_files():
  """97.4 MB and 74 MB in float32, as AnimateDiff's README has it (in 2^20 bytes)."""
  module = unet3d.UNet3D(architectures.animatediff(version=2))
  read = f"{PREFIX[:-1]}2.to_k.weight"
  base = ANIMATEDIFF.abstract_params(module, {read: (320, 768)})
  create = functools.partial(running.init_lora, jax.random.key(0))
  for targets, rank, size in (
    ("/spatial_(self|cross)", 128, 25_509_888),  # the domain adapter
    ("/temporal_self", 64, 19_333_120),  # MotionLoRA
  ):
    shapes = jax.eval_shape(lambda base, how=(targets, rank): create(base, *how), base)
    assert sum(x.size for x in jax.tree.leaves(nn.meta.unbox(shapes))) == size


def originals_of(module):
  """{name in AnimateDiff's code: shape} of the weights of a UNet3D."""
  table = ANIMATEDIFF
  specs = state_dict.flatten(table.abstract_params(module, {}))
  out = {}
  for theirs, ours, pattern in table.rules(module):
    kernel = lora.LoraKernel((theirs,), pattern, {}, specs[ours].shape)
    out[theirs] = kernel.published_shape()
  return out


def test_a_kernel_that_mixes_its_axes_is_merged_and_never_run():
  """Of a patch's convolution, pixels and channels are one axis of ours."""
  module = VideoDiT(
    out_channels=4,
    width=16,
    depth=1,
    num_heads=2,
    layout=("spatial",),
    num_classes=3,
  )
  rng = np.random.default_rng(0)
  down, up = rng.standard_normal((2, 4, 2, 2)), rng.standard_normal((16, 2, 1, 1))
  found = {"pos_embed.proj.lora_A.weight": down, "pos_embed.proj.lora_B.weight": up}
  with pytest.raises(ValueError, match="pos_embed.proj.weight cannot be run, only mer"):
    lora.factors_from_state_dict(module, found)
  w = rng.standard_normal((16, 4, 2, 2)).astype(np.float16)
  out = lora.merge_state_dict({"pos_embed.proj.weight": w, "other": w}, found, 0.5)
  expected = w + 0.5 * np.einsum("or,rihw->oihw", up[..., 0, 0], down)
  assert out["pos_embed.proj.weight"].dtype == np.float16 and out["other"] is w
  np.testing.assert_allclose(out["pos_embed.proj.weight"], expected, atol=1e-2)


def test_convolutions_run_too():
  normal = np.random.default_rng(0).standard_normal
  for pattern, shape, their in (
    ("o i h w -> h w i o", (3, 3, 4, 5), (5, 4, 3, 3)),
    ("o i 1 1 -> i o", (4, 5), (5, 4, 1, 1)),
    ("o i t h w -> t h w i o", (3, 1, 1, 4, 5), (5, 4, 3, 1, 1)),
  ):
    kernel = lora.LoraKernel(("a",), pattern, {}, shape)
    assert kernel.published_shape() == their and kernel.is_factorable()
    pair = lora_names.LoraPair(normal((2, *their[1:])), normal((5, 2)))
    down, up = kernel.factors({"a": pair}, 0.5)
    own = {"kernel": {"down": down, "up": up}}
    out = running.merge({"kernel": np.zeros(shape, np.float32)}, own)["kernel"]
    theirs = 0.5 * np.einsum("or,ri...->oi...", pair.up, pair.down)
    expected = lora.rearrange(theirs, pattern)
    np.testing.assert_allclose(out, expected, atol=1e-5)
