"""Real programs of real configs, compiled for TPUs that are not here.

A compilation for a TPU takes seconds to minutes on one core, and the package libtpu:
pip install -e ".[test,tpu]" && pytest -m aot.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from configs import latte, quickstart
from vdm_jax import compiler
from vdm_jax.aot import topology
from vdm_jax.programs import compile as program

pytestmark = pytest.mark.aot


def config(arg, **fields):
  """A config of Latte with these fields, "__" for "."; a name is a path."""
  flags = {name.replace("__", "."): value for name, value in fields.items()}
  return program.override_fields(latte.get_config(arg), flags)


def rows(report, kind):
  return [row for row in report["collectives"] if row["kind"] == kind]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
  """(report, folder) of the smallest training step, on four chips."""
  place = tmp_path_factory.mktemp("tiny")
  return program.run(config("tiny"), place, topology="v5e:2x2"), place / "compile"


def test_the_report_is_there_as_text_and_json_and_chart(tiny):
  report, place = tiny
  assert json.loads((place / "v5e_2x2_train.json").read_text()) == report
  said = (place / "v5e_2x2_train.txt").read_text()
  for word in ("optimizer", "fits", "all-reduce", "binds", "compiled in"):
    assert word in said
  assert Image.open(place / "v5e_2x2_train.png").size[0] > 500


def test_the_state_is_counted_exactly(tiny):
  """AdamW keeps two numbers for each parameter, the average one."""
  parts = tiny[0]["memory"]["parts"]
  assert parts["ema"] == parts["parameters"]
  assert 2 * parts["parameters"] <= parts["optimizer"] < 2 * parts["parameters"] + 64
  # One clip on each chip: two moments of 4 x 8 x 8 x 2 and a label, float32.
  assert parts["batch"] == 4 * (2 * 4 * 8 * 8 * 2 + 1)


def test_gradients_are_summed_over_the_chips_once(tiny):
  report = tiny[0]
  assert report["clips_per_device"] == 1.0
  reduces = rows(report, "all-reduce")
  assert {row["axes"] for row in reduces} == {"data"}
  assert {row["kind"] for row in report["collectives"]} == {"all-reduce"}
  sent = sum(row["bytes"] for row in reduces)
  assert sent == pytest.approx(1.5 * report["memory"]["parts"]["parameters"], rel=0.05)


def test_what_does_not_fit_is_said_with_what_would(tmp_path):
  """Latte-XL/2 in float32, its state whole on every chip: refused by the compiler."""
  cfg = config("ucf101", train__loader__batch_size=48)
  report = program.run(cfg, tmp_path, topology="v5e:4x4")
  memory = report["memory"]
  assert not memory["fits"] and memory["headroom"] < 0
  assert memory["parts"]["optimizer"] > 5 * 2**30
  fits = [a["flags"] for a in report["advice"] if a["fits"]]
  assert {"mesh.data": 1, "mesh.fsdp": 16} in fits
  assert "DOES NOT FIT" in (tmp_path / "compile" / "v5e_4x4_train.txt").read_text()


def test_frames_over_chips_are_swapped_in_the_blocks(tmp_path):
  """A small clip on a mesh of data and seq: no tokens are gathered."""
  cfg = config("tiny", mesh__data=2, mesh__seq=2, network__depth=4)
  report = program.run(cfg, tmp_path, topology="v5e:2x2")
  swaps = rows(report, "all-to-all")
  assert swaps and {row["axes"] for row in swaps} == {"seq"}
  assert {"blocks", "blocks (backward)"} <= {row["scan"] for row in swaps}
  tokens = 2 * 4 * 16 * 16 * 4 / 2  # bytes of a device's share, of two clips
  gathers = rows(report, "all-gather")
  assert all(row["largest"] < tokens / 4 for row in gathers if row["axes"] == "seq")


def test_long_sequences_are_attended_to_by_splash_attention(tiny, tmp_path):
  """A frame of 32 x 32 places is long enough for the kernel; one of 4 x 4 is not."""
  cfg = config("tiny", sample__generator__shape=(2, 64, 64, 2))
  report = program.run(cfg, tmp_path, topology="v5e:2x2")
  assert report["custom_calls"]["tpu_custom_call"] > 0
  assert any("splash" in name for name in report["flops"]["kernels"])
  assert "tpu_custom_call" not in tiny[0]["custom_calls"]


def test_options_of_every_preset_are_known_to_the_compiler():
  found = topology.get_topology("v5e:2x2")
  mesh = jax.sharding.Mesh(np.array(found.devices), ("data",))
  place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
  x = jax.ShapeDtypeStruct((8, 8), jnp.float32, sharding=place)
  lowered = jax.jit(lambda x: x + 1).lower(x)
  lowered.compile(compiler_options=compiler.xla_options("auto", "tpu"))
  with pytest.raises(jax.errors.JaxRuntimeError, match="xla_tpu_no_such_thing"):
    lowered.compile(compiler_options={"xla_tpu_no_such_thing": True})
  with pytest.raises(ValueError, match="Did you mean 'tpu'"):
    compiler.xla_options("tpuu")


def test_what_cannot_be_compiled_is_refused_by_name(tmp_path):
  for message, what, cfg in (
    ("Did you mean 'train'", "trian", config("tiny")),
    ("trains nothing", "train", config("t2v")),
    ("published folder", "sample", config("t2v")),
    ("nearest batch sizes are 32 or 48", "train", config("ucf101")),
    ("a multiple of 3 devices", "train", config("ucf101", mesh__fsdp=3)),
  ):
    with pytest.raises(ValueError, match=message):
      program.run(cfg, tmp_path, topology="v5e:4x4", what=what)
    assert not (tmp_path / "compile").exists()


XL = dict(network__dtype="bfloat16", mesh__data=1)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
  """Latte-XL/2, four clips of 16 x 256 x 256 on each of 16 v5e."""
  cfg = config("ucf101", train__loader__batch_size=64, mesh__fsdp=16, **XL)
  return program.run(cfg, tmp_path_factory.mktemp("large"), topology="v5e:4x4")


def test_latte_xl_trains_on_v5e_with_four_clips_a_chip(large):
  assert large["clips_per_device"] >= 4
  assert large["memory"]["fits"] and large["memory"]["total"] < 16e9
  assert large["flops"]["repeated"] == pytest.approx(1.0, abs=0.05)


def test_no_parameter_is_gathered_whole_outside_the_layers(large):
  """A layer's weights come when it is its turn; the stacked ones never do."""
  gathers = rows(large, "all-gather")
  stacked = 14 * 1152 * 1152 * 2  # bytes of the smallest kernel, of all its layers
  assert gathers and max(row["largest"] for row in gathers) < stacked
  outside = [row for row in gathers if not row["scan"]]
  assert sum(row["bytes"] for row in outside) < 0.01 * sum(r["bytes"] for r in gathers)


def test_frames_on_several_chips_are_swapped_in_the_blocks_and_never_gathered(tmp_path):
  cfg = config(
    "ucf101",
    train__loader__batch_size=4,
    sample__generator__shape=(128, 32, 32, 4),
    mesh__fsdp=4,
    mesh__seq=4,
    **XL,
  )
  report = program.run(cfg, tmp_path, topology="v5e:4x4")
  assert report["memory"]["fits"]
  swaps = rows(report, "all-to-all")
  assert swaps and {row["axes"] for row in swaps} == {"seq"}
  # Outside, only the tokens' way back to frames for the last layer, and its gradient's.
  assert sum(row["count"] for row in swaps if not row["scan"]) <= 2
  inside = {row["scan"]: row["count"] for row in swaps if row["scan"]}
  assert inside["blocks"] == 2 * 14  # one each way for each pair of blocks
  clip = 128 * 256 * 1152 * 2 / 4  # bytes of a device's share of the tokens
  for row in rows(report, "all-gather"):
    assert row["moves"] == "parameters" or row["largest"] < 0.01 * clip


def test_sampling_and_decoding_compile_too(tmp_path):
  cfg = quickstart.get_config("tiny")
  for what in ("sample", "decode"):
    report = program.run(cfg, tmp_path, topology="v5e:2x2", what=what)
    assert report["memory"]["fits"] and not report["collectives"]


def test_two_slices_speak_over_the_slow_network_on_data_alone(tmp_path):
  cfg = config("tiny", mesh__data=2, mesh__fsdp=4, train__loader__batch_size=8)
  report = program.run(cfg, tmp_path, topology="v5e:2x2", num_slices=2)
  far = [row for row in report["collectives"] if row["network"]]
  assert far and {row["axes"] for row in far} == {"data"}
  assert report["bound"]["dcn"] > 0
