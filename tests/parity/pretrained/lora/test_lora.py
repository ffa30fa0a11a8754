"""Published LoRAs run and merge as torch has them, whatever they call their layers."""

import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import torch
import transformers

from tests.support import golden_files
from vdm_jax.models import lora as running
from vdm_jax.pretrained import state_dict
from vdm_jax.pretrained.lora import lora
from vdm_jax.pretrained.lora import names as lora_names
from vdm_jax.pretrained.tables import registry
from vdm_jax.pretrained.tables.encoders import clip
from vdm_jax.pretrained.tables.table import Table, init_shapes

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

  def abstract_params(module, shapes):
    del shapes
    return init_shapes(module, jnp.zeros((1, WIDTH)))

  names = zip(LAYERS, ("q", "k", "v", "out"), strict=True)
  rules = [(f"{PREFIX}.{a}.weight", f"{b}/kernel", "o i -> i o") for a, b in names]
  made = Table(
    module_class=Mixed, rules=lambda module: rules, abstract_params=abstract_params
  )
  monkeypatch.setattr(registry, "TABLES", (made,))


@pytest.fixture(scope="module")
def layers():
  """({layer: (W, down, up)}, x, their output by scale) of torch."""
  torch.manual_seed(0)
  linear = lambda i, o: torch.nn.Linear(i, o, bias=False)
  made = {
    name: (linear(WIDTH, WIDTH), linear(WIDTH, RANK), linear(RANK, WIDTH))
    for name in LAYERS
  }
  x = torch.randn(5, WIDTH)

  def output(scale):
    h = x
    with torch.no_grad():
      for w, down, up in made.values():
        h = w(h) + scale * up(down(h))
    return h.numpy()

  arrays = {
    name: tuple(layer.weight.detach().numpy() for layer in parts)
    for name, parts in made.items()
  }
  return arrays, x.numpy(), output


def animatediff(layer, part):
  name = "to_out" if layer == "to_out.0" else layer
  return f"{PREFIX}.processor.{name}_lora.{part}.weight"


def swift(layer, part):
  return f"{PREFIX}.{layer}.lora_{'A' if part == 'down' else 'B'}.default.weight"


def kohya(layer, part):
  flat = f"{PREFIX}.{layer}".replace(".", "_")
  return f"lora_unet_{flat}.lora_{part}.weight"


FORMS = {
  "AnimateDiff": animatediff,
  "of several devices": lambda *of: f"module.{animatediff(*of)}",
  "swift": swift,
  "peft": lambda *of: "base_model.model." + swift(*of).replace(".default", ""),
  "diffusers": lambda *of: "unet." + swift(*of).replace(".default", ""),
  "diffusers, older": lambda layer, part: f"{PREFIX}.{layer}.lora.{part}.weight",
  "kohya": kohya,
}


def lora_of(arrays, name=animatediff):
  parts = {"down": 1, "up": 2}
  return {name(k, part): a[i] for k, a in arrays.items() for part, i in parts.items()}


def base_of(arrays):
  return {f"{PREFIX}.{name}.weight": w for name, (w, _, _) in arrays.items()}


def merged(params, own, x):
  return np.asarray(Mixed().apply({"params": running.merge(params, own)}, x))


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_torchs_sum_of_two_paths(table, layers, form):
  arrays, x, output = layers
  found = lora_of(arrays, FORMS[form])
  params = state_dict.from_state_dict(Mixed(), base_of(arrays))
  own = lora.factors_from_state_dict(Mixed(), found, 0.8)
  network = running.Lora(Mixed(), "kernel", rank=RANK)
  both = lora.merge_state_dict(base_of(arrays), found, 0.8)
  both = state_dict.from_state_dict(Mixed(), both)
  wanted = output(0.8)
  for out in (
    network.apply({"base": params, "lora": own}, x),
    merged(params, own, x),
    Mixed().apply({"params": both}, x),
  ):
    np.testing.assert_allclose(out, wanted, rtol=0, atol=1e-5)
  assert np.abs(output(0.7) - wanted).max() > 1e-3, "a scale that is off is seen"


def test_a_file_may_be_wrapped_and_hold_its_config(table, layers, tmp_path):
  arrays, _, _ = layers
  found = {k: torch.from_numpy(x.copy()) for k, x in lora_of(arrays).items()}
  wrapped = {"state_dict": {**found, "animatediff_config": "none"}}
  torch.save(wrapped, tmp_path / "v2_lora_ZoomIn.ckpt")
  own = lora.load(Mixed(), tmp_path / "v2_lora_ZoomIn.ckpt")
  plain = lora.factors_from_state_dict(Mixed(), found)
  jax.tree.map(np.testing.assert_array_equal, own, plain)


def test_kohyas_alpha_is_shared_by_the_ranks(table, layers):
  arrays, x, output = layers
  found = lora_of(arrays, kohya)
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


def test_a_lora_may_leave_layers_out(table, layers):
  arrays, _, _ = layers
  own = lora.factors_from_state_dict(Mixed(), lora_of({"to_k": arrays["to_k"]}))
  assert set(own) == {"k"}


def test_what_does_not_fit_stands_in_one_list(table, layers):
  arrays, _, _ = layers
  found = lora_of(arrays)
  found[f"{PREFIX}.processor.to_x_lora.down.weight"] = np.zeros((RANK, WIDTH))
  found[f"{PREFIX}.processor.to_x_lora.up.weight"] = np.zeros((WIDTH, RANK))
  found[f"{PREFIX}.to_q.lora_magnitude_vector"] = np.zeros(WIDTH)
  found[f"{PREFIX}.to_v.lora_A.other.weight"] = np.zeros((RANK, WIDTH))
  found[animatediff("to_k", "up")] = np.zeros((WIDTH + 1, RANK))
  del found[animatediff("to_out.0", "up")]
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
  arrays, _, _ = layers
  text = {
    f"lora_te_text_model_encoder_layers_0_mlp_fc1.lora_{part}.weight": np.zeros((2, 2))
    for part in ("down", "up")
  }
  found = lora_of(arrays, kohya) | text
  with pytest.raises(ValueError, match="select_network"):
    lora.factors_from_state_dict(Mixed(), found)
  unet = lora_names.select_network(found, "unet")
  assert unet == lora_of(arrays, kohya)
  assert set(lora_names.select_network(found, "text_encoder")) == set(text)
  assert set(lora.factors_from_state_dict(Mixed(), unet)) == {"q", "k", "v", "out"}


def test_an_adapters_folder_has_its_scale(table, layers, tmp_path):
  arrays, x, output = layers
  path = tmp_path / "adapter_model.safetensors"
  safetensors.numpy.save_file(lora_of(arrays, swift), path)
  (tmp_path / "adapter_config.json").write_text(json.dumps(dict(r=RANK, lora_alpha=3)))
  params = state_dict.from_state_dict(Mixed(), base_of(arrays))
  for at in (tmp_path, path):
    added = lora.merge_file(params, path=at, module=Mixed(), scale=0.4)
    out = Mixed().apply({"params": added}, x)
    np.testing.assert_allclose(out, output(0.4 * 3 / RANK), rtol=0, atol=1e-5)
  assert lora.merge_file(params, path="", module=Mixed()) is params


def test_q_and_v_of_clip_are_parts_of_one_kernel_and_still_run():
  """Magic Text-Encoder's kind; of the second layer k alone, with another rank."""
  torch.manual_seed(0)
  config = transformers.CLIPTextConfig(
    hidden_size=12,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=20,
    vocab_size=40,
    max_position_embeddings=11,
    eos_token_id=39,
  )
  theirs = transformers.CLIPTextModel(config).eval()
  with torch.no_grad():
    for name, x in theirs.named_parameters():
      x.copy_(torch.from_numpy(golden_files.fill(name, tuple(x.shape), 0)))
  state = {k: x.numpy().copy() for k, x in theirs.state_dict().items()}
  module = clip.TEXT.from_config(config.to_dict(), {})
  params = state_dict.from_state_dict(module, state)
  ids = np.random.default_rng(1).integers(0, 39, (2, 9))
  ids[:, 7:] = 39

  found = {}
  for layer, rank in (("0.q_proj", 2), ("0.v_proj", 2), ("1.k_proj", 3), ("0.fc2", 1)):
    i, name = layer.split(".")
    part = "mlp" if name == "fc2" else "self_attn"
    prefix = next(k for k in state if k.endswith(f"layers.{i}.{part}.{name}.weight"))
    linear = theirs.get_submodule(prefix.removesuffix(".weight"))
    down = torch.randn(rank, linear.in_features)
    up = torch.randn(linear.out_features, rank)
    linear.register_forward_hook(lambda _, x, y, d=down, u=up: y + x[0] @ d.T @ u.T)
    name = f"text_encoder.text_model.encoder.layers.{i}.{part}.{name}"
    found[f"{name}.lora_A.weight"], found[f"{name}.lora_B.weight"] = down, up
  with torch.no_grad():
    wanted = theirs(torch.from_numpy(ids)).last_hidden_state.numpy()

  own = lora.factors_from_state_dict(module, found)
  qkv = own["blocks"]["attention"]["qkv"]["kernel"]
  assert qkv["down"].shape == (2, 12, 4) and qkv["up"].shape == (2, 4, 36)
  network = running.Lora(module, "qkv|mlp_out")
  with jax.default_matmul_precision("highest"):
    out, plain = (
      np.asarray(jax.jit(n.apply)({"params": p}, ids))
      for n, p in ((network, {"base": params, "lora": own}), (module, params))
    )
  bound = 1e-4 * max(1, np.abs(wanted).max())
  assert np.abs(out - wanted).max() <= bound
  assert np.abs(plain - wanted).max() > 100 * bound, "without it, it is seen"
