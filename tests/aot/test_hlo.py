"""A compiled program is read as it is written: loops, fusions, products, traffic."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.aot import flops, hlo, work

# A loop as libtpu writes it: no trip count, the counter goes through a fusion, a
# product is a convolution with gaps, and one value stays in the chip's own memory.
TPU = (pathlib.Path(__file__).parent / "loop.hlo").read_text()


def test_a_loop_turns_as_often_as_its_counter_says():
  module = hlo.parse_module(TPU)
  inside = [v for v in module.visits() if v.loops]
  assert {v.computation.name for v in inside} == {"body", "fused_add", "fused_product"}
  assert {v.times for v in inside} == {5}  # 1, 3, 5, 7, 9
  assert all(v.loops[0].is_jax_loop for v in inside)
  assert {v.computation.name: v.fused for v in inside}["fused_product"]


def test_another_loop_turns_as_often_as_that_one():
  for old, new, trips in (
    ("constant(11)", "constant(12)", 6),
    ("direction=LT", "direction=LE", 6),
    (
      "%constant.3 = s32[]{:T(128)} constant(1)",
      "%constant.3 = s32[]{:T(128)} constant(9)",
      1,
    ),
    ("add(%param_0.1, %constant.1)", "multiply(%param_0.1, %constant.1)", None),
  ):
    module = hlo.parse_module(TPU.replace(old, new))
    loops = {v.loops[0].trips for v in module.visits() if v.loops}
    assert loops == {trips}


def test_a_product_that_is_written_as_a_convolution_with_gaps():
  """Two products of 8 x 16 and 16 x 4, five times; the gaps multiply nothing."""
  assert work.device_flops(hlo.parse_module(TPU)) == 5 * 2 * (2 * 8 * 16 * 4)


def test_what_stays_on_the_chip_is_no_traffic():
  """Each turn reads x and the counter from HBM, and writes the counter."""
  assert work.hbm_traffic_bytes(hlo.parse_module(TPU)) == 5 * (2 * 8 * 16 * 2 + 4 + 4)
  everything = hlo.parse_module(TPU.replace("S(1)", ""))
  assert work.hbm_traffic_bytes(everything) > work.hbm_traffic_bytes(
    hlo.parse_module(TPU)
  )


def test_custom_calls_are_counted_by_their_target():
  assert work.custom_call_counts(hlo.parse_module(TPU)) == {"AllocateBuffer": 5}


def test_a_text_without_an_entry_is_refused():
  with pytest.raises(ValueError, match="no compiled program"):
    hlo.parse_module("HloModule nothing")


def test_a_real_program_does_what_its_jaxpr_says():
  """Gradients of six layers, two batches one after the other."""

  def loss(ws, xs):
    def layer(x, w):
      return jnp.tanh(x @ w), None

    def one(total, x):
      return total + jnp.sum(jax.lax.scan(layer, x, ws)[0] ** 2), None

    return jax.lax.scan(one, 0.0, xs)[0]

  ws, xs = np.ones((6, 16, 16), np.float32), np.ones((2, 8, 16), np.float32)
  gradient = jax.grad(loss)
  compiled = jax.jit(gradient).lower(ws, xs).compile()
  module = hlo.parse_module(compiled.as_text())
  counted = flops.flop_count_of_call(gradient, ws, xs).flops
  assert work.device_flops(module) == counted == 2 * 6 * 3 * 2 * 8 * 16 * 16
  assert {v.times for v in module.visits()} >= {1, 2, 12}
  # XLA's own count takes each body once: this is what is repaired here.
  assert compiled.cost_analysis()["flops"] < work.device_flops(module) / 3


def test_a_loop_whose_end_is_data_is_said_to_be_unknown():
  def run(x):
    return jax.lax.while_loop(lambda x: x.sum() < 1.0, lambda x: x @ x, x)

  compiled = jax.jit(run).lower(np.ones((4, 4), np.float32)).compile()
  loops = [v.loops for v in hlo.parse_module(compiled.as_text()).visits() if v.loops]
  assert loops and all(loop[0].trips is None for loop in loops)


def test_traffic_of_a_scan_grows_with_its_length_and_not_with_its_square():
  """A layer reads its own slice of the stacked weights, not all of them."""

  def traffic(length):
    def run(ws, x):
      return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, ws)[0]

    ws, x = np.ones((length, 32, 32), np.float32), np.ones((4, 32), np.float32)
    text = jax.jit(run).lower(ws, x).compile().as_text()
    return work.hbm_traffic_bytes(hlo.parse_module(text))

  few, many = traffic(4), traffic(16)
  assert 3.5 < many / few < 4.5
