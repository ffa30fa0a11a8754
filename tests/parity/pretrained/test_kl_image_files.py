"""Folders of Stable Diffusion's autoencoders: their fields, factors and old names."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from diffusers import AutoencoderKL, AutoencoderKLTemporalDecoder
from safetensors import numpy as safetensors_numpy

from tests.support import golden_files
from vdm_jax import pretrained
from vdm_jax.autoencoders import base, kl_temporal
from vdm_jax.pretrained.tables.autoencoders import kl_image as table
from vdm_jax.pretrained.tables.autoencoders.kl_temporal import TABLE as temporal_table

DOWN, UP = "DownEncoderBlock2D", "UpDecoderBlock2D"
TINY = dict(
  block_out_channels=[8, 16],
  down_block_types=[DOWN] * 2,
  up_block_types=[UP] * 2,
  norm_num_groups=4,
  latent_channels=2,
)
# What the published folders say of their latents.
FACTORS = {
  "Stable Diffusion": dict(scaling_factor=0.18215),
  "SDXL": dict(scaling_factor=0.13025),
  "Stable Diffusion 3": dict(scaling_factor=1.5305, shift_factor=0.0609),
  "FLUX": dict(scaling_factor=0.3611, shift_factor=0.1159),
  "Playground 2.5": dict(
    scaling_factor=0.5, latents_mean=[-1.6574, 1.886], latents_std=[8.4927, 5.9022]
  ),
}


@pytest.fixture(scope="module")
def state():
  """A state dict of the tiny original, by the names and shapes of its own."""
  shapes = AutoencoderKL(**TINY).state_dict()
  return {
    name: golden_files.fill(name, tuple(x.shape), 3) for name, x in shapes.items()
  }


def write(folder, state, config):
  folder.mkdir(exist_ok=True)
  path = folder / "diffusion_pytorch_model.safetensors"
  safetensors_numpy.save_file(state, path)
  config = {"_class_name": "AutoencoderKL", **config}
  (folder / "config.json").write_text(json.dumps(config))
  return folder


def test_fields_that_are_absent_are_their_defaults():
  module = table.TABLE.from_config({"_class_name": "AutoencoderKL"})
  theirs = AutoencoderKL()
  assert module.channels == (64,) and module.layers_per_block == 1
  found = {name: x.shape for name, x in theirs.state_dict().items()}
  assert {name for name, _, _ in table.TABLE.rules(module)} == set(found)


@pytest.mark.parametrize("name", FACTORS)
def test_statistics_of_latents_survive(state, tmp_path, name):
  """Opened: (z - shift) / scale is what their pipelines compute. Saved: same fields."""
  factors = FACTORS[name]
  folder = write(tmp_path / "theirs", state, TINY | factors)
  module, params = pretrained.load(folder)
  moments = base.Moments(jnp.asarray([[[[[0.7, -2.0]]]]]), jnp.zeros((1, 1, 1, 1, 2)))
  shift = np.asarray(factors.get("latents_mean", factors.get("shift_factor", 0.0)))
  std = np.asarray(factors.get("latents_std", 1.0))
  expected = (np.asarray([0.7, -2.0]) - shift) * factors["scaling_factor"] / std
  z = np.asarray(module.latents(params, moments, None)).ravel()
  np.testing.assert_allclose(z, expected, rtol=1e-6)

  pretrained.save(tmp_path / "ours", module, params)
  saved = json.loads((tmp_path / "ours" / "config.json").read_text())
  assert {k: saved[k] for k in factors} == factors


def test_any_factor_survives():
  rng = np.random.default_rng(0)
  for digits in rng.integers(1, 7, 300):
    factor = float(f"{rng.uniform(0.01, 4.0):.{digits}g}")
    latents = table.latent_statistics(
      table.TABLE.from_config(TINY), {"scaling_factor": factor}
    )
    latents = {k.removeprefix("latents/"): x for k, x in latents.items()}
    assert table.latent_statistics_config(latents)["scaling_factor"] == factor


def test_measured_statistics_survive(state, tmp_path):
  folder = write(tmp_path / "theirs", state, TINY)
  module, params = pretrained.load(folder)
  rng = np.random.default_rng(0)
  latents = {k: rng.uniform(0.1, 3.0, 2).astype(np.float32) for k in ("shift", "scale")}
  pretrained.save(tmp_path / "ours", module, {**params, "latents": latents})
  _, back = pretrained.load(tmp_path / "ours")
  for k, x in latents.items():
    np.testing.assert_array_equal(back["latents"][k], x)


def test_without_a_config_the_factor_is_stable_diffusions(state):
  module = table.TABLE.from_config(TINY)
  params = pretrained.from_state_dict(module, state)
  np.testing.assert_array_equal(params["latents"]["shift"], [0.0, 0.0])
  np.testing.assert_array_equal(
    params["latents"]["scale"], np.float32([1 / 0.18215] * 2)
  )


def test_old_names_of_the_attention_open(state, tmp_path):
  """sd-vae-ft-mse and others were saved before diffusers 0.18 renamed these four."""
  old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
  renamed = {}
  for name, x in state.items():
    for new, word in old.items():
      name = re.sub(rf"(attentions\.0\.){re.escape(new)}\.", rf"\1{word}.", name)
    renamed[name] = x
  assert sum("proj_attn" in name for name in renamed) == 4
  assert not any("to_q" in name for name in renamed)
  _, params = pretrained.load(write(tmp_path / "old", renamed, TINY))
  _, expected = pretrained.load(write(tmp_path / "new", state, TINY))
  jax.tree.map(np.testing.assert_array_equal, params, expected)


def test_everything_unsupported_is_in_one_error(state, tmp_path):
  wrong = TINY | dict(
    down_block_types=[DOWN, "AttnDownEncoderBlock2D"],
    up_block_types=[UP],
    act_fn="tanh",
    latents_mean=[0.0, 1.0, 2.0],
    never_heard_of=3,
  )
  with pytest.raises(ValueError) as caught:
    pretrained.load(write(tmp_path, state, wrong))
  for words in (
    "down_block_types=['DownEncoderBlock2D', 'AttnDownEncoderBlock2D']; supported: 2",
    "up_block_types=['UpDecoderBlock2D']; supported: 2 of",
    "act_fn='tanh'; supported: 'relu', 'silu'",
    "latents_mean=[0.0, 1.0, 2.0]; supported: 2 numbers",
    "with latents_std=None; supported: both",
    "never_heard_of=3 is no field",
  ):
    assert words in str(caught.value), words


def test_one_factor_is_all_that_a_temporal_decoders_file_can_say():
  module = temporal_table.from_config(dict(block_out_channels=[32]))
  assert module == kl_temporal.KLTemporal(
    channels=(32,), layers_per_block=1, mid_layers=1, sample_size=32
  )
  latents = {"shift": np.zeros(4, np.float32), "scale": np.full(4, 5.0, np.float32)}
  config = temporal_table.to_config(module, {"latents": latents})
  assert config["scaling_factor"] == 0.2
  fields = set(AutoencoderKLTemporalDecoder(block_out_channels=[32]).config)
  assert {k for k in config if not k.startswith("_")} <= fields
  with pytest.raises(ValueError, match="one scaling_factor"):
    moved = {**latents, "shift": np.ones(4, np.float32)}
    temporal_table.to_config(module, {"latents": moved})
