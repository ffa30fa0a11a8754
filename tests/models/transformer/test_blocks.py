"""The variants of Latte: what mixes with what, in which order, and what images skip."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support import drawn, suite
from vdm_jax.conditioning import Conditioning, Tokens
from vdm_jax.models import inputs
from vdm_jax.models.transformer import blocks as dit_blocks
from vdm_jax.models.transformer import video_dit

tiny = functools.partial(
  video_dit.VideoDiT, out_channels=3, patch=2, width=16, depth=4, num_heads=2
)
FLOAT32 = dict(dtype=jnp.float32, param_dtype=jnp.float32)
NONE = Conditioning()
RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 3, 4, 4, 3)).astype(np.float32)
T = RNG.uniform(0, 1000, (2, 3)).astype(np.float32)
# What blocks read: tokens, the time's embedding, places in time.
HIDDEN = [
  RNG.standard_normal(shape).astype(np.float32)
  for shape in ((2, 3, 4, 16), (2, 3, 16), (2, 3, 1, 16))
]


@functools.lru_cache
def jitted(module):
  return jax.jit(lambda p, x, t, cond: module.apply({"params": p}, x, t, cond))


def apply(module, params, x=X, t=T, cond=NONE):
  return np.asarray(jitted(module)(params, x, t, cond))


@pytest.mark.parametrize(
  "fields, touched",
  [
    # One pixel of frame 1 is edited; which (frame, patch row, patch column) change?
    (dict(layout=("spatial",), depth=1), [np.s_[1]]),
    (dict(layout=("temporal",), depth=1), [np.s_[:, 0, 1]]),
    (dict(layout=("parallel",), depth=1), [np.s_[1], np.s_[:, 0, 1]]),
    (dict(layout=("serial",), depth=1), [np.s_[:]]),
    (dict(depth=2, fusion="late"), [np.s_[:]]),
    *suite.only_complete(
      (dict(layout=("parallel",), depth=2), [np.s_[:]]), (dict(depth=2), [np.s_[:]])
    ),
  ],
  ids=str,
)
def test_what_an_edit_reaches(fields, touched):
  module = tiny(**fields)
  params = drawn.params(module, X, T, NONE)
  edited = X.copy()
  edited[:, 1, 0, 2] += 1.0
  change = np.abs(apply(module, params, edited) - apply(module, params))
  change = change.reshape(2, 3, 2, 2, 2, 2, 3).max(axis=(0, 3, 5, 6))  # [T, H/P, W/P]
  reached = np.zeros(change.shape, bool)
  for part in touched:
    reached[part] = True
  assert (change[reached] > 1e-5).all()
  np.testing.assert_array_equal(change[~reached], 0.0)


def by_hand(kind, params, x, emb, time):
  """A block of variant 3 or 4 as the paper writes it, in float64, head by head."""
  params = jax.tree.map(np.float64, params)

  def linear(name, h):
    p = functools.reduce(dict.get, name.split("/"), params)
    return h @ p["kernel"] + p["bias"]

  def norm(h, shift, scale):
    h = h - h.mean(axis=-1, keepdims=True)
    h = h / np.sqrt(np.square(h).mean(axis=-1, keepdims=True) + 1e-6)
    return h * (1 + scale) + shift

  def attend(axis, h, num_heads):
    """Within a frame, or along time at one place."""
    h = h if axis == "spatial" else h.swapaxes(1, 2)
    width = h.shape[-1] // num_heads
    out = np.zeros_like(h)
    qkv = linear(f"{axis}/qkv", h)
    for n in range(num_heads):
      start = 3 * n * width
      q, k, v = np.split(qkv[..., start : start + 3 * width], 3, axis=-1)
      weights = np.exp(q @ k.swapaxes(-1, -2) / np.sqrt(width))
      weights /= weights.sum(axis=-1, keepdims=True)
      out[..., n * width : (n + 1) * width] = weights @ v
    out = linear(f"{axis}/out", out)
    return out if axis == "spatial" else out.swapaxes(1, 2)

  mod = np.split(linear("modulation", emb)[:, :, None], 6, axis=-1)
  shift1, scale1, gate1, shift2, scale2, gate2 = mod
  if kind == "serial":
    x = x + gate1 * attend("spatial", norm(x, shift1, scale1), 4)
    x = x + time
    x = x + gate1 * attend("temporal", norm(x, shift1, scale1), 4)
  else:  # half of the heads each way
    x = x + time
    h = norm(x, shift1, scale1)
    x = x + gate1 * (attend("spatial", h, 2) + attend("temporal", h, 2))
  h = linear("mlp_in", norm(x, shift2, scale2))
  h = 0.5 * h * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))
  return x + gate2 * linear("mlp_out", h)


@pytest.mark.parametrize(
  "kind, other", [("serial", "parallel"), ("parallel", "serial")]
)
def test_blocks_of_variants_3_and_4_compute_the_papers_formula(kind, other):
  block = dit_blocks.TransformerBlock(
    kind, num_heads=4, mlp_ratio=2.0, modulation="block", **FLOAT32
  )
  x, emb, time = HIDDEN

  def run(method, first):
    signals = inputs.Signals(emb=emb)
    return method(first, x, signals, ("spatial", "temporal"), time)

  shapes = jax.eval_shape(functools.partial(run, block.init), jax.random.key(0))
  params = drawn.like(shapes["params"])
  out = jax.jit(functools.partial(run, block.apply))({"params": params})
  np.testing.assert_allclose(out, by_hand(kind, params, x, emb, time), atol=1e-4)
  assert np.abs(out - by_hand(other, params, x, emb, time)).max() > 0.1


def two_layers(layout, fusion, mlp_ratio):
  """A stack of two layers of each kind."""
  block = dict(num_heads=2, mlp_ratio=mlp_ratio, modulation="block", **FLOAT32)
  rest = dict(num_layers=2, remat=False, unroll=1, block=block)
  return dit_blocks.BlockStack(layout, fusion, **rest)


@pytest.mark.parametrize(
  "layout, fusion",
  [(("serial", "temporal"), "interleaved"), (("parallel", "serial"), "late")],
)
def test_places_in_time_are_added_once(layout, fusion):
  """With closed gates nothing else happens; and to images not even that."""
  stack = two_layers(layout, fusion, mlp_ratio=1.0)
  x, emb, time = HIDDEN

  def run(method, first, axes=("spatial", "temporal")):
    return method(first, x, inputs.Signals(emb=emb), time, axes)

  shapes = jax.eval_shape(functools.partial(run, stack.init), jax.random.key(0))
  closed = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
  apply = jax.jit(functools.partial(run, stack.apply), static_argnames="axes")
  np.testing.assert_array_equal(apply(closed), x + time)
  np.testing.assert_array_equal(apply(closed, axes=("spatial",)), x)


ORDERS = {
  "interleaved": ("spatial 0", "temporal 0", "spatial 1", "temporal 1"),
  "late": ("spatial 0", "spatial 1", "temporal 0", "temporal 1"),
}


def test_late_fusion_is_the_same_blocks_in_another_order():
  """The blocks one by one, by hand; places in time before the first temporal one."""
  layout = ("spatial", "temporal")
  stacks = {fusion: two_layers(layout, fusion, mlp_ratio=4.0) for fusion in ORDERS}
  x, emb, time = HIDDEN
  signals = inputs.Signals(emb=emb)
  rest = (x, signals, time, layout)
  trees = {
    fusion: nn.meta.unbox(
      jax.eval_shape(lambda k, s=stack: s.init(k, *rest), jax.random.key(0))
    )["params"]
    for fusion, stack in stacks.items()
  }
  assert trees["late"] == trees["interleaved"]
  params = drawn.like(trees["late"])

  def one_by_one(order):
    h = x
    for name in order:
      kind, layer = name.split()
      block = dit_blocks.TransformerBlock(kind, **stacks["late"].block)
      part = jax.tree.map(lambda leaf, i=int(layer): leaf[i], params[kind])
      here = time if name == "temporal 0" else None
      h = block.apply({"params": part}, h, signals, (kind,), here)
    return h

  outs = {}
  for fusion, stack in stacks.items():
    outs[fusion] = jax.jit(lambda p, s=stack: s.apply({"params": p}, *rest))(params)
    np.testing.assert_allclose(
      outs[fusion], jax.jit(one_by_one, static_argnums=0)(ORDERS[fusion]), atol=1e-4
    )
  assert np.abs(outs["late"] - outs["interleaved"]).max() > 0.1


def test_variant_1_with_closed_temporal_gates_is_dit():
  module = tiny(time_positions="none")
  params = drawn.params(module, X, T, NONE)
  shut = jax.tree.map(np.zeros_like, params["blocks"]["temporal"]["modulation"])
  params["blocks"]["temporal"]["modulation"] = shut
  dit = tiny(layout=("spatial",), depth=2)
  spatial = {k: x for k, x in params["blocks"].items() if k == "spatial"}
  frames = X[:, :1], T[:, :1]
  expected = apply(dit, params | {"blocks": spatial}, *frames)
  np.testing.assert_allclose(apply(module, params, *frames), expected, atol=1e-4)
  shut["bias"] = shut["bias"] + 1.0
  assert np.abs(apply(module, params, *frames) - expected).max() > 0.1


@pytest.mark.parametrize("variant", dit_blocks.VARIANTS)
def test_an_image_passes_time_by(variant):
  fields = dit_blocks.VARIANTS[variant]
  module = tiny(one_frame="image", **fields)
  params = drawn.params(module, X, T, NONE)
  image = X[:, :1], T[:, :1]
  out = apply(module, params, *image)

  def without_time(path, leaf):
    return np.zeros_like(leaf) if "'temporal'" in jax.tree_util.keystr(path) else leaf

  still = jax.tree_util.tree_map_with_path(without_time, params)
  np.testing.assert_array_equal(apply(module, still, *image), out)
  clip = tiny(one_frame="clip", **fields)
  assert np.abs(apply(clip, params, *image) - out).max() > 1e-2
  # With the same parameters, clips are not touched by the choice.
  np.testing.assert_array_equal(apply(module, params), apply(clip, params))
  if variant <= 2:
    frames = tiny(layout=("spatial",), depth=2)
    spatial = {"spatial": params["blocks"]["spatial"]}
    expected = apply(frames, params | {"blocks": spatial}, *image)
    np.testing.assert_allclose(out, expected, atol=1e-4)


def test_a_network_made_with_an_image_has_all_its_parameters():
  module = tiny(one_frame="image")
  init = lambda x, t: jax.eval_shape(module.init, jax.random.key(0), x, t, NONE)
  assert jax.tree.structure(init(X[:, :1], T[:, :1])) == jax.tree.structure(init(X, T))


SIGNALS = Conditioning(
  vectors={"text": X[:, 0, 0, :2].reshape(2, 6)}, positions=np.array([[0, 2, 3]] * 2)
)
READ = Conditioning(tokens={"text": Tokens(X[:, 0, 0], np.array([[1, 1, 0, 0]] * 2))})


# Fields, what changes nothing, and what the network reads.
REMATS = {
  "late": (dict(fusion="late", time_positions="rotary"), dict(remat="dots"), NONE),
  "serial": (
    dict(layout=("serial",), modulation="shared", text="cross"),
    dict(remat=True),
    READ,
  ),
  "parallel": (
    dict(layout=("parallel",), modulation="tokens", text="pooled"),
    dict(remat=True),
    SIGNALS,
  ),
  "unrolled": (dict(depth=4), dict(unroll=2, remat=True), NONE),
  "full": (dict(depth=4), dict(remat=True), NONE),
  "dots": (dict(depth=4), dict(remat="dots"), NONE),
}


@pytest.mark.parametrize(
  "case", suite.choose(REMATS, "late", "serial", "parallel", "unrolled")
)
def test_remat_and_unrolling_change_neither_output_nor_gradient(case):
  fields, remat, cond = REMATS[case]
  fields = dict(depth=2) | fields
  params = drawn.params(tiny(**fields), X, T, cond)

  def value_and_grad(module):
    loss = lambda p: jnp.square(module.apply({"params": p}, X, T, cond)).mean()
    return jax.jit(jax.value_and_grad(loss))(params)

  plain, other = (value_and_grad(tiny(**fields | more)) for more in ({}, remat))
  scale = max(np.abs(g).max() for g in jax.tree.leaves(plain))
  assert scale > 1e-3
  for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(other), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5 * scale)
