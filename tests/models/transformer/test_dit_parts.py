"""On one CPU a block is computed in parts; nobody shall notice but the clock."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support import drawn, suite
from vdm_jax.layers.cpu import blocking
from vdm_jax.models import inputs
from vdm_jax.models.transformer import blocks

pytestmark = pytest.mark.usefixtures("unoptimized")

ONE_FRAME = 4 * 64 * 9  # bytes of 9 places in a perceptron of 64 features
BOTH = ("spatial", "temporal")
CASES = {
  "interleaved": dict(),
  "rotary": dict(rotary=True, modulation="shared"),
  "tokens": dict(layout=("temporal",), modulation="tokens"),
  "serial": dict(layout=("serial",)),
  "full": dict(layout=("full",)),
  "text": dict(text=True),
  "remat": dict(remat="full"),
}


def draw(frames=4, layout=BOTH, modulation="block", rotary=False, text=False, **fields):
  """(a stack of one block of each kind, random parameters, what it is called with)."""
  width = 16
  x, emb, words, time = drawn.normals(
    (2, frames, 9, width),
    (2, frames, 6 * width if modulation == "shared" else width),
    (2, 5, width),
    (1, frames, 1, width),
  )
  signals = inputs.Signals(
    emb=None if modulation == "tokens" else emb,
    positions=np.arange(frames)[None] if rotary else None,
    text=(words, np.arange(5) < [[5], [3]]) if text else None,
  )
  block = dict(num_heads=2, mlp_ratio=4.0, modulation=modulation)
  fields = dict(num_layers=1, remat=False, unroll=1, block=block) | fields
  stack = blocks.BlockStack(layout, "interleaved", **fields)
  args = x, signals, None if rotary else time, tuple(blocks.AXES)
  shapes = jax.eval_shape(lambda key: stack.init(key, *args), jax.random.key(0))
  return stack, drawn.like(shapes["params"], scale=0.2), args


def run(stack, params, args, gradients):
  """[(output, gradients or ())], without and with `train`, whose are in `gradients`."""

  @jax.jit
  def both(params):
    found = []
    for train in (False, True):
      forward = lambda p, t=train: stack.clone(train=t).apply({"params": p}, *args)
      if train in gradients:
        out, back = jax.vjp(forward, params)
        found.append((out, back(out)))
      else:
        found.append((forward(params), ()))
    return found

  return jax.device_get(both(params))


def distance(a, b):
  apart = jax.tree.map(lambda x, y: np.abs(x - y).max() / np.abs(x).max(), a, b)
  return max(jax.tree.leaves(apart), default=0.0)


@pytest.mark.parametrize("case", suite.choose(CASES, "interleaved", "tokens"))
def test_a_block_in_parts_is_the_block(case, monkeypatch):
  drawn_case = draw(**CASES[case])
  gradients = (True,) if case == "tokens" else ()
  gradients = (False, True) if suite.is_complete() else gradients
  whole = run(*drawn_case, gradients)
  monkeypatch.setattr(blocking, "BYTES", 2 * ONE_FRAME)
  parts = run(*drawn_case, gradients)
  for (out, grads), (other, others) in zip(whole, parts, strict=True):
    assert distance(out, other) < 1e-5
    assert distance(grads, others) < 1e-4


def compiled(stack, params, args):
  run = jax.jit(lambda p: stack.apply({"params": p}, *args))
  return run.lower(params).compile()


@pytest.fixture(scope="module")
def long():
  """A stack that reads 16 frames, and its program, computed whole."""
  case = draw(frames=16)
  return case, compiled(*case)


def test_parts_that_cut_what_is_attended_are_seen(long, monkeypatch):
  case, whole = long

  def cut(block, x, signals, along, time, train):
    del train
    axis = 2 if along == ("spatial",) else 1
    halves = jnp.split(x, [4 if axis == 2 else 8], axis)
    time = [None, None] if time is None else jnp.split(time, 2, axis=1)
    emb = jnp.split(signals.emb, 2, axis=1) if axis == 1 else [signals.emb] * 2
    parts = [
      block(h, signals.replace(emb=e), along, t)
      for h, e, t in zip(halves, emb, time, strict=True)
    ]
    return jnp.concatenate(parts, axis)

  monkeypatch.setattr(blocks, "_tiled", cut)
  parts = compiled(*case)
  assert distance(*jax.device_get([f(case[1]) for f in (whole, parts)])) > 1e-3


def test_memory_falls(long, monkeypatch):
  case, whole = long
  monkeypatch.setattr(blocking, "BYTES", 2 * ONE_FRAME)
  parts = compiled(*case)
  used = lambda program: program.memory_analysis().temp_size_in_bytes
  assert used(parts) < 0.7 * used(whole)


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
