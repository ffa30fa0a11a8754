"""The variants of Latte: what mixes with what, in which order, and what images skip."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support import drawn, suite
from vdm_jax.conditioning import Conditioning
from vdm_jax.models import inputs
from vdm_jax.models.transformer import blocks as dit_blocks
from vdm_jax.models.transformer import video_dit

pytestmark = pytest.mark.usefixtures("unoptimized")

tiny = functools.partial(
  video_dit.VideoDiT, out_channels=3, patch=2, width=16, depth=4, num_heads=2
)
FLOAT32 = dict(dtype=jnp.float32, param_dtype=jnp.float32)
NONE = Conditioning()
RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 3, 4, 4, 3)).astype(np.float32)
T = RNG.uniform(0, 1000, (2, 3)).astype(np.float32)
# What blocks read: tokens, the time's embedding, places in time.
HIDDEN, EMB, PLACES = drawn.normals((2, 3, 4, 16), (2, 3, 16), (2, 3, 1, 16))
SIGNALS = inputs.Signals(emb=EMB)
BOTH = ("spatial", "temporal")
BLOCK = dict(num_heads=4, mlp_ratio=2.0, modulation="block", **FLOAT32)
jitted = functools.cache(lambda module: jax.jit(module.apply))


def apply(module, params, x=X, t=T, cond=NONE):
  return np.asarray(jitted(module)({"params": params}, x, t, cond))


@functools.cache
def block(kind):
  """(random parameters, (params, x, time) -> tokens after a block of this kind)."""
  module = dit_blocks.TransformerBlock(kind, **BLOCK)
  rest = SIGNALS, dit_blocks.BLOCKS[kind]
  init = lambda key: module.init(key, HIDDEN, *rest, PLACES)
  shapes = jax.eval_shape(init, jax.random.key(0))
  run = jax.jit(lambda p, x, time: module.apply({"params": p}, x, *rest, time))
  apply = lambda p, x, time=0 * PLACES: np.asarray(run(p, x, time))
  return drawn.like(shapes["params"]), apply


@pytest.mark.parametrize(
  "kind, touched",
  [
    # Place 1 of frame 1 is edited; which (frame, place) change?
    ("spatial", [np.s_[1]]),
    ("temporal", [np.s_[:, 1]]),
    ("parallel", [np.s_[1], np.s_[:, 1]]),
    ("serial", [np.s_[:]]),
  ],
)
def test_what_an_edit_reaches(kind, touched):
  params, run = block(kind)
  edited = HIDDEN.copy()
  edited[:, 1, 1] += drawn.normal(16)
  out, other = run(params, HIDDEN), run(params, edited)
  change = np.abs(other - out).max(axis=(0, 3))
  reached = np.zeros(change.shape, bool)
  for part in touched:
    reached[part] = True
  assert (change[reached] > 1e-5).all()
  np.testing.assert_array_equal(change[~reached], 0.0)
  if kind == "parallel":  # two of them reach everything
    assert (np.abs(run(params, other) - run(params, out)).max(axis=(0, 3)) > 1e-5).all()


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


def test_blocks_of_variants_3_and_4_compute_the_papers_formula():
  for kind, other in (("serial", "parallel"), ("parallel", "serial")):
    params, run = block(kind)
    out = run(params, HIDDEN, PLACES)
    expected, wrong = (by_hand(k, params, HIDDEN, EMB, PLACES) for k in (kind, other))
    np.testing.assert_allclose(out, expected, atol=1e-4)
    assert np.abs(out - wrong).max() > 0.1


def two_layers(layout=BOTH, fusion="interleaved", rest=(SIGNALS, PLACES), **fields):
  """(parameters as shapes, (params, axes) -> tokens after two layers of each kind)."""
  fields = dict(num_layers=2, remat=False, unroll=1, block=BLOCK) | fields
  stack = dit_blocks.BlockStack(layout, fusion, **fields)
  call = lambda method, first, axes=BOTH: method(first, HIDDEN, *rest, axes)
  shapes = jax.eval_shape(functools.partial(call, stack.init), jax.random.key(0))
  run = lambda params, *axes: call(stack.apply, {"params": params}, *axes)
  return nn.meta.unbox(shapes)["params"], run


@pytest.mark.parametrize(
  "layout, fusion",
  [(("serial", "temporal"), "interleaved"), (("parallel", "serial"), "late")],
)
def test_places_in_time_are_added_once(layout, fusion):
  """With closed gates nothing else happens; and to images not even that."""
  shapes, run = two_layers(layout, fusion)
  closed = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
  clip, image = jax.jit(lambda params: (run(params), run(params, ("spatial",))))(closed)
  np.testing.assert_array_equal(clip, HIDDEN + PLACES)
  np.testing.assert_array_equal(image, HIDDEN)


ORDERS = {
  "interleaved": ("spatial 0", "temporal 0", "spatial 1", "temporal 1"),
  "late": ("spatial 0", "spatial 1", "temporal 0", "temporal 1"),
}


def test_late_fusion_is_the_same_blocks_in_another_order():
  """The blocks one by one, by hand; places in time before the first temporal one."""
  stacks = {fusion: two_layers(fusion=fusion) for fusion in ORDERS}
  assert stacks["late"][0] == stacks["interleaved"][0]
  params = drawn.like(stacks["late"][0])

  def one_by_one(order):
    h = HIDDEN
    for name in order:
      kind, layer = name.split()
      part = jax.tree.map(lambda leaf, i=int(layer): leaf[i], params[kind])
      h = block(kind)[1](part, h, PLACES * (name == "temporal 0"))
    return h

  both = jax.jit(lambda params: {k: run(params) for k, (_, run) in stacks.items()})
  outs = jax.device_get(both(params))
  for fusion, order in ORDERS.items():
    np.testing.assert_allclose(outs[fusion], one_by_one(order), atol=1e-4)
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
  clip = tiny(one_frame="clip", **fields)
  image = X[:, :1], T[:, :1], NONE

  @jax.jit
  def both(params):
    return [m.apply({"params": params}, *image) for m in (module, clip)]

  def without_time(path, leaf):
    return np.zeros_like(leaf) if "'temporal'" in jax.tree_util.keystr(path) else leaf

  out, as_clip = jax.device_get(both(params))
  still, _ = both(jax.tree_util.tree_map_with_path(without_time, params))
  np.testing.assert_array_equal(still, out)
  assert np.abs(as_clip - out).max() > 1e-2
  # Clips are not touched by the choice.
  programs = [jax.jit(m.apply).lower(params, X, T, NONE) for m in (module, clip)]
  assert len({program.as_text() for program in programs}) == 1
  if variant <= 2:
    frames = tiny(layout=("spatial",), depth=2)
    spatial = {"spatial": params["blocks"]["spatial"]}
    expected = apply(frames, params | {"blocks": spatial}, *image)
    np.testing.assert_allclose(out, expected, atol=1e-4)


def test_a_network_made_with_an_image_has_all_its_parameters():
  module = tiny(one_frame="image")
  init = lambda x, t: jax.eval_shape(module.init, jax.random.key(0), x, t, NONE)
  assert jax.tree.structure(init(X[:, :1], T[:, :1])) == jax.tree.structure(init(X, T))


# What is computed, and what changes nothing.
REMATS = {
  "temporal": (
    dict(
      layout=("temporal",),
      block=BLOCK | dict(modulation="shared"),
      rest=(inputs.Signals(np.tile(EMB, 6), positions=np.array([[0, 2, 3]])), None),
    ),
    dict(remat="dots"),
  ),
  "spatial": (
    dict(
      layout=("spatial",),
      block=BLOCK | dict(modulation="tokens"),
      rest=(inputs.Signals(None, text=(HIDDEN[:, 0], np.arange(4) < [[2], [4]])), None),
    ),
    dict(remat=True, unroll=2),
  ),
  "late": (dict(fusion="late"), dict(remat="dots")),
  "serial": (dict(layout=("serial",)), dict(remat=True)),
  "parallel": (dict(layout=("parallel",)), dict(remat=True)),
  "unrolled": ({}, dict(unroll=2, remat=True)),
  "full": ({}, dict(remat=True)),
  "dots": ({}, dict(remat="dots")),
}


@pytest.mark.parametrize("case", suite.choose(REMATS, "temporal", "spatial"))
def test_remat_and_unrolling_change_neither_output_nor_gradient(case):
  fields, remat = REMATS[case]
  (shapes, plain), (_, other) = two_layers(**fields), two_layers(**fields, **remat)
  params = drawn.like(shapes)

  def value_and_grad(run):
    loss = lambda p: jnp.square(run(p)).mean()
    return jax.tree.leaves(jax.device_get(jax.jit(jax.value_and_grad(loss))(params)))

  plain, other = value_and_grad(plain), value_and_grad(other)
  scale = max(np.abs(g).max() for g in plain)
  assert scale > 1e-3
  for a, b in zip(plain, other, strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5 * scale)
