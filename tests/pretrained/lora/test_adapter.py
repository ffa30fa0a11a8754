"""The alpha of a LoRA's layers is found in the settings beside its tensors."""

import json

import numpy as np
import pytest
import safetensors.numpy

from vdm_jax.pretrained.lora import adapter, names

RANK = 2
LAYERS = ("down.0.to_q", "down.0.to_k", "mid.to_out.0")
FORMS = {
  "diffusers": "unet.{layer}.lora_{AB}.weight",
  "diffusers, older": "{layer}.lora.{part}.weight",
  "peft": "base_model.model.{layer}.lora_{AB}.weight",
  "swift": "{layer}.lora_{AB}.default.weight",
  "AnimateDiff": "{layer}_lora.{part}.weight",
}

# What diffusers 0.42 writes of peft 0.21, beside what decides on the scale.
OTHERS = dict.fromkeys(
  (
    *("alora_invocation_tokens", "arrow_config", "auto_mapping", "exclude_modules"),
    *("base_model_name_or_path", "corda_config", "eva_config", "kasa_config"),
    *("layer_replication", "layers_pattern", "layers_to_transform", "lora_ga_config"),
    *("megatron_config", "modules_to_save", "monteclora_config", "revision"),
    *("target_parameters", "task_type", "trainable_token_indices", "use_bdlora"),
    "velora_config",
  )
) | dict(
  bias="none",
  ensure_weight_tying=False,
  fan_in_fan_out=False,
  inference_mode=False,
  init_lora_weights=True,
  loftq_config={},
  lora_bias=False,
  lora_dropout=0.1,
  megatron_core="megatron.core",
  peft_type="LORA",
  peft_version="0.21.2",
  qalora_group_size=16,
  target_modules=["to_q", "to_out.0"],
  use_dora=False,
  use_qalora=False,
)


def tensors_of(form):
  return {
    FORMS[form].format(layer=layer, part=part, AB=letter): np.ones(shape, np.float32)
    for layer in LAYERS
    for part, letter, shape in (("down", "A", (RANK, 3)), ("up", "B", (3, RANK)))
  }


def write(folder, settings, tensors):
  """As diffusers writes it: the settings are in the header."""
  text = settings if isinstance(settings, str) else json.dumps(settings, sort_keys=True)
  header = {"lora_adapter_metadata": text, "format": "pt"}
  path = folder / "pytorch_lora_weights.safetensors"
  safetensors.numpy.save_file(tensors, path, header)
  return path


def pipelines(settings):
  """The fields of a pipeline's file, with another part."""
  other = {"text_encoder.lora_alpha": 50, "text_encoder.r": 9}
  return other | {f"unet.{name}": x for name, x in settings.items()}


def test_settings_in_the_header_give_the_scale_of_each_layer(tmp_path):
  full = OTHERS | dict(r=RANK, lora_alpha=8)
  patterns = dict(
    r=4,
    lora_alpha=4,
    rank_pattern={"to_.*": RANK},
    alpha_pattern={"^down.0.to_k": 1, "q": 7, "to_q": 6, "^to_out.0": 9},
  )
  for form, settings, expected in (
    ("diffusers", pipelines(full), (4, 4, 4)),
    ("swift", full, (4, 4, 4)),
    ("peft", dict(r=RANK, lora_alpha=3, use_rslora=True), (3 / RANK**0.5,) * 3),
    ("diffusers", pipelines(patterns), (3, 0.5, 2)),
    ("diffusers, older", {"r": RANK}, (4, 4, 4)),  # alpha is 8 by default
    ("diffusers", {"text_encoder.r": 9}, (1, 1, 1)),  # of another part
  ):
    path = write(tmp_path, settings, tensors_of(form))
    for at in (path, tmp_path):
      pairs, problems = names.read_pairs_and_problems(adapter.open_lora(at))
      factors = [pairs[f"{layer}.weight"].factor for layer in LAYERS]
      np.testing.assert_allclose(factors, expected, rtol=1e-6, err_msg=str(settings))
      assert not problems


def test_settings_that_are_more_than_a_lora_or_do_not_fit_are_refused(tmp_path):
  good, theirs = dict(r=RANK, lora_alpha=3), tensors_of("diffusers")
  for message, more in (
    (r"1 fields .*\n.*use_dora=True", dict(use_dora=True)),
    (r"2 fields .*\n.*bias='all'.*\n.*new=3", dict(bias="all", new=3)),
    ("init_lora_weights='pissa'", dict(init_lora_weights="pissa")),
    ("peft_type='LOHA'", dict(peft_type="LOHA")),
    ("to_q.lora_A.weight has rank 2, .*says 5", dict(rank_pattern={"to_q": 5})),
    ("is not understood", dict(lora_alpha="3")),
    ("is not understood", dict(alpha_pattern={"(": 1})),
    ("is not understood", dict(rank_pattern=[1])),
  ):
    for settings in (good | more, pipelines(good | more)):
      with pytest.raises(ValueError, match=message):
        adapter.open_lora(write(tmp_path, settings, theirs))
  alpha = {"unet.down.0.to_q.alpha": np.full((), 3, np.float32)}
  for message, settings, tensors in (
    ("is no JSON", "[" * 200_000, theirs),
    ("holds a list", "[3]", theirs),
    ("to_q.alpha is a tensor, and .* says alpha, too", good, theirs | alpha),
    ("not one of the names that go with", good, tensors_of("AnimateDiff")),
  ):
    with pytest.raises(ValueError, match=message):
      adapter.open_lora(write(tmp_path, settings, tensors))
  with pytest.raises(FileNotFoundError, match="has none of .*adapter_model"):
    adapter.open_lora(tmp_path.parent)
