"""On one CPU a block is computed in parts; nobody shall notice but the clock."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support import drawn, suite
from vdm_jax.conditioning import Conditioning, Tokens
from vdm_jax.layers.cpu import blocking
from vdm_jax.models.transformer import blocks, video_dit

ONE_FRAME = 4 * 64 * 9  # bytes of 9 places in a perceptron of 64 features

CASES = {
  "interleaved": dict(),
  "rotary": dict(time_positions="rotary", modulation="shared"),
  "tokens": dict(modulation="tokens"),
  "serial": dict(layout=("serial",)),
  "full": dict(layout=("full",)),
  "text": dict(text="cross"),
  "remat": dict(remat="full"),
}


def draw(fields, batch=2, frames=4):
  network = video_dit.VideoDiT(
    out_channels=4, width=16, depth=2, num_heads=2, num_classes=3, **fields
  )
  rng = np.random.default_rng(0)
  array = lambda *s: jnp.asarray(rng.normal(size=s), jnp.float32)
  tokens = {}
  if "text" in fields:
    mask = jnp.asarray([[True] * 5, [True] * 3 + [False] * 2])
    tokens["text"] = Tokens(array(batch, 5, 8), mask)
  cond = Conditioning(vectors={"label": jnp.asarray([0, 2])}, tokens=tokens)
  inputs = array(batch, frames, 6, 6, 4), 500 + 100 * array(batch, frames), cond
  return network, drawn.params(network, *inputs, scale=0.2), inputs


def run(network, params, inputs, train=False, gradient=True):
  """(output, gradients) with the parts that `rows` allows, compiled anew."""
  forward = lambda params: network.apply({"params": params}, *inputs, train=train)
  if not gradient:
    return jax.jit(forward)(params), {}
  loss = lambda out: (jnp.mean(out**2), out)
  both = jax.value_and_grad(lambda params: loss(forward(params)), has_aux=True)
  (_, out), grads = jax.jit(both)(params)
  return out, grads


def distance(a, b):
  apart = jax.tree.map(lambda x, y: jnp.abs(x - y).max() / jnp.abs(x).max(), a, b)
  return max(float(x) for x in jax.tree.leaves(apart))


@pytest.mark.parametrize("case", suite.choose(CASES, "interleaved", "tokens"))
def test_a_block_in_parts_is_the_block(case, monkeypatch):
  network, params, inputs = draw(CASES[case])
  whole = run(network, params, inputs)
  monkeypatch.setattr(blocking, "BYTES", 2 * ONE_FRAME)
  for train in (False, True):
    out, grads = run(network, params, inputs, train, train or suite.is_complete())
    assert distance(whole[0], out) < 1e-5
    assert not grads or distance(whole[1], grads) < 1e-4


def test_parts_that_cut_what_is_attended_are_seen(monkeypatch):
  network, params, inputs = draw(CASES["interleaved"])
  whole, _ = run(network, params, inputs, gradient=False)

  def cut(block, x, signals, along, time, train):
    del train
    axis = 2 if along == ("spatial",) else 1
    halves = jnp.split(x, [4 if axis == 2 else 2], axis)
    time = [None, None] if time is None else jnp.split(time, 2, axis=1)
    emb = jnp.split(signals.emb, 2, axis=1) if axis == 1 else [signals.emb] * 2
    parts = [
      block(h, signals.replace(emb=e), along, t)
      for h, e, t in zip(halves, emb, time, strict=True)
    ]
    return jnp.concatenate(parts, axis)

  monkeypatch.setattr(blocks, "_tiled", cut)
  parts, _ = run(network, params, inputs, gradient=False)
  assert distance(whole, parts) > 1e-3


def test_memory_falls(monkeypatch):
  network, params, inputs = draw({}, frames=16)

  def bytes_used():
    apply = lambda p: network.apply({"params": p}, *inputs)
    compiled = jax.jit(apply).lower(params).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  whole = bytes_used()
  monkeypatch.setattr(blocking, "BYTES", 2 * ONE_FRAME)
  assert bytes_used() < 0.7 * whole


def test_only_one_cpu_works_in_parts():
  assert blocking.on_one_cpu()
  auto = (jax.sharding.AxisType.Auto,)
  for count in (1, 2):
    devices = jax.devices()[:count]
    mesh = jax.make_mesh((count,), ("data",), devices=devices, axis_types=auto)
    with jax.set_mesh(mesh):
      assert blocking.on_one_cpu() == (count == 1)


def test_rows_go_together_in_divisors():
  size = blocking.BYTES // 5
  assert [blocking.block_size(n, size) for n in (1, 5, 6, 7, 16)] == [1, 5, 3, 1, 4]
  assert blocking.block_size(16, 10 * blocking.BYTES) == 1
