"""VideoDiT: its sizes, what its blocks mix, and what must not change its result."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax import sharding
from vdm_jax.conditioning import Conditioning, Tokens
from vdm_jax.models import video_dit

tiny = functools.partial(
  video_dit.VideoDiT, out_channels=3, patch=2, width=16, depth=2, num_heads=2
)
NONE = Conditioning()


def inputs(shape=(2, 3, 4, 6, 3), seed=0):
  rng = np.random.default_rng(seed)
  x = rng.standard_normal(shape).astype(np.float32)
  return x, rng.uniform(0, 1000, shape[:2]).astype(np.float32)


def random_params(module, x, t, cond=NONE, *, scale=0.3):
  """Non-zero everywhere: with the initial ones every block is the identity."""
  shapes = jax.eval_shape(module.init, jax.random.key(0), x, t, cond)["params"]
  rng = np.random.default_rng(1)
  draw = lambda leaf: scale * rng.standard_normal(leaf.shape).astype(leaf.dtype)
  return jax.tree.map(draw, nn.meta.unbox(shapes))


@pytest.fixture(scope="module")
def network():
  """(module, random parameters, jitted apply)."""
  module = tiny()
  x, t = inputs()
  params = random_params(module, x, t)
  return (
    module,
    params,
    jax.jit(lambda p, x, t: module.apply({"params": p}, x, t, NONE)),
  )


@pytest.mark.parametrize(
  "size, patch, millions",
  [
    ("XL", 2, 673.68),
    ("XL", 4, 673.85),
    ("XL", 8, 674.51),
    ("L", 2, 456.82),
    ("L", 4, 456.96),
    ("L", 8, 457.55),
    ("B", 2, 129.55),
    ("B", 4, 129.66),
    ("B", 8, 130.10),
    ("S", 2, 32.48),
    ("S", 4, 32.54),
    ("S", 8, 32.76),
  ],
)
def test_sizes_have_the_published_number_of_parameters(size, patch, millions):
  assert count(patch=patch, **video_dit.SIZES[size]) == millions


def test_ucf101s_classes_add_their_rows():
  assert count(patch=2, num_classes=101, **video_dit.SIZES["XL"]) == 673.80


def count(num_classes=0, **fields):
  """Millions of parameters, for four latent channels in and eight out."""
  module = video_dit.VideoDiT(out_channels=8, num_classes=num_classes, **fields)
  cond = Conditioning(vectors={"label": jnp.zeros(1, int)} if num_classes else {})
  x = jnp.zeros((1, 2, 8, 8, 4))
  shapes = jax.eval_shape(module.init, jax.random.key(0), x, jnp.zeros(1), cond)
  return round(sum(leaf.size for leaf in jax.tree.leaves(shapes)) / 1e6, 2)


def test_the_initial_network_answers_zero_and_its_blocks_are_ready():
  x, t = inputs()
  start = jax.jit(lambda key: tiny(depth=4).init_with_output(key, x, t, NONE))
  out, variables = start(jax.random.key(0))
  np.testing.assert_array_equal(out, np.zeros((2, 3, 4, 6, 3)))
  params = nn.meta.unbox(variables)["params"]
  block = params["blocks"]["temporal"]
  assert not np.any(block["modulation"]["kernel"])
  bound = np.sqrt(6 / (16 + 48))  # xavier-uniform
  first, second = block["attention"]["qkv"]["kernel"]
  assert 0.9 * bound < np.abs(first).max() <= bound
  assert np.abs(first - second).max() > 0.5 * bound  # layers differ
  assert 0.015 < np.std(params["time"]["in"]["kernel"]) < 0.025


@pytest.mark.parametrize(
  "layout, edit, touched",
  [
    # One pixel of one frame is edited; which (frame, patch row, patch column) change?
    ("spatial", (1, 0, 2), np.s_[1:2, :, :]),
    ("temporal", (1, 0, 2), np.s_[:, 0:1, 1:2]),
  ],
)
def test_a_block_mixes_along_its_own_axis_only(layout, edit, touched):
  module = tiny(layout=(layout,), depth=1)
  x, t = inputs()
  params = random_params(module, x, t)
  apply = jax.jit(lambda x: module.apply({"params": params}, x, t, NONE))
  edited = x.copy()
  edited[:, *edit] += 1.0
  change = np.abs(apply(edited) - apply(x)).reshape(2, 3, 2, 2, 3, 2, 3)
  change = change.max(axis=(0, 3, 5, 6))  # [T, H / P, W / P]
  wanted = np.zeros(change.shape, bool)
  wanted[touched] = True
  assert (change[wanted] > 1e-4).all()
  np.testing.assert_array_equal(change[~wanted], 0.0)


def test_both_kinds_together_mix_everything_and_know_the_order(network):
  _, params, apply = network
  x, t = inputs()
  t = np.full_like(t, 300.0)
  edited = x.copy()
  edited[:, 1, 0, 2] += 1.0
  assert (np.abs(apply(params, edited, t) - apply(params, x, t)) > 0).mean() > 0.9
  # Without places in time or space these would be equal.
  backwards = apply(params, x[:, ::-1], t)[:, ::-1]
  mirrored = apply(params, x[:, :, :, ::-1], t)[:, :, :, ::-1]
  assert np.abs(backwards - apply(params, x, t)).max() > 1e-3
  assert np.abs(mirrored - apply(params, x, t)).max() > 1e-3


def test_each_frame_has_its_own_time(network):
  _, params, apply = network
  x, t = inputs()
  given = t.copy()
  given[:, 0] = 0.0
  assert np.abs(apply(params, x, given) - apply(params, x, t))[:, 0].max() > 1e-2
  same = np.full_like(t, 300.0)
  np.testing.assert_array_equal(apply(params, x, same), apply(params, x, same[:, 0]))
  np.testing.assert_allclose(
    apply(params, x, same), apply(params, x, same[:, :1]), atol=1e-4
  )


def value_and_grad(module):
  x, t = inputs((1, 2, 4, 4, 3))
  loss = lambda p: jnp.square(module.apply({"params": p}, x, t, NONE)).mean()
  return jax.jit(jax.value_and_grad(loss))(random_params(module, x, t))


@pytest.fixture(scope="module")
def plain():
  return value_and_grad(tiny(depth=4))


@pytest.mark.parametrize(
  "fields", [dict(remat=True), dict(remat="dots"), dict(unroll=2, remat=True)], ids=str
)
def test_remat_and_unrolling_change_neither_output_nor_gradient(fields, plain):
  other = value_and_grad(tiny(depth=4, **fields))
  scale = max(np.abs(g).max() for g in jax.tree.leaves(plain))
  assert scale > 1e-3
  for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(other), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5 * scale)


def test_bfloat16_computes_close_and_keeps_float32_parameters(network):
  _, _, apply = network
  x, t = inputs()
  module = tiny(dtype=jnp.bfloat16)
  params = random_params(module, x, t, scale=0.1)
  assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
  out = jax.jit(lambda p: module.apply({"params": p}, x, t, NONE))(params)
  assert out.dtype == jnp.float32
  wanted = apply(params, x, t)
  assert np.abs(out - wanted).max() < 0.05 * np.abs(wanted).max()
  assert np.abs(out - wanted).max() > 0  # it did compute in bfloat16


def test_channels_and_the_mask_enter_as_input_channels():
  x, t = inputs((2, 3, 4, 4, 3))
  first = x[:, :1, ..., :2] + 1.0  # [B, 1, H, W, 2]: one frame for all
  mask = jnp.zeros((2, 3, 1, 1, 1), bool).at[:, 0].set(True)
  module = tiny(mask_channel=True)
  cond = Conditioning(channels={"first_frame": first}, mask=mask)
  params = random_params(module, x, t, cond)
  assert params["patchify"]["kernel"].shape == (2 * 2 * (3 + 2 + 1), 16)
  apply = jax.jit(lambda cond: module.apply({"params": params}, x, t, cond))
  out = apply(cond)
  other = apply(cond.replace(channels={"first_frame": first + 1.0}))
  assert np.abs(other - out).max() > 1e-2
  assert np.abs(apply(cond.replace(mask=~mask)) - out).max() > 1e-2
  # No mask means that no frame is given.
  nothing = apply(cond.replace(mask=jnp.zeros_like(mask)))
  np.testing.assert_allclose(apply(cond.replace(mask=None)), nothing, atol=1e-5)
  blind = tiny(mask_channel=False)
  cond = Conditioning(mask=mask)
  assert random_params(blind, x, t, cond)["patchify"]["kernel"].shape == (2 * 2 * 3, 16)


@pytest.mark.parametrize("mesh", [dict(seq=2), dict(tensor=2)], ids=str)
def test_two_devices_compute_what_one_does(mesh, network):
  module, params, apply = network
  x, t = inputs()  # 3 frames do not divide by 2
  wanted = apply(params, x, t)
  axes = dict(data=1, fsdp=1, seq=1, tensor=1) | mesh
  rules = (
    ("batch", ("data", "fsdp")),
    ("frames", "seq"),
    ("space", "seq"),
    ("embed", "fsdp"),
    ("heads", "tensor"),
    ("mlp", "tensor"),
  )
  mesh = sharding.make_mesh(axes)
  with sharding.use(mesh, rules):
    boxed = jax.eval_shape(module.init, jax.random.key(0), x, t, NONE)["params"]
    placed = jax.device_put(params, sharding.shard_tree(boxed, mesh, rules))
    out = jax.jit(lambda p: module.apply({"params": p}, x, t, NONE))(placed)
  np.testing.assert_allclose(out, wanted, atol=1e-4)


@pytest.mark.parametrize(
  "shape, message",
  [
    ((1, 2, 5, 4, 3), "height 5.*patch=2.*4 and 6"),
    ((1, 2, 4, 1, 3), "width 1.*nearest: 2"),
    ((2, 4, 4, 3), r"\[B, T, H, W, C\]"),
  ],
)
def test_sizes_that_do_not_fit_are_refused(shape, message):
  with pytest.raises(ValueError, match=message):
    random_params(tiny(), jnp.zeros(shape), jnp.zeros(shape[:1]))


@pytest.mark.parametrize(
  "fields, message",
  [
    (dict(depth=3), "depth=3.*multiple of 2"),
    (dict(layout=("spacial",)), "layout=.*'spatial', 'temporal'"),
    (dict(layout=("spatial", "spatial")), "at most once"),
    (dict(remat="some"), "remat='some'.*full"),
    (dict(width=18), "divisible by 4"),
    (dict(num_heads=3), "num_heads=3"),
  ],
)
def test_fields_that_mean_nothing_are_refused(fields, message):
  with pytest.raises(ValueError, match=message):
    random_params(tiny(**fields), jnp.zeros((1, 2, 4, 4, 3)), jnp.zeros(1))


@pytest.mark.parametrize("shape", [(3,), (2, 2), (2, 3, 1)])
def test_times_of_another_number_of_frames_are_refused(shape):
  with pytest.raises(ValueError, match="t has shape"):
    random_params(tiny(), inputs()[0], jnp.zeros(shape))


@pytest.mark.parametrize(
  "num_classes, cond",
  [
    (0, Conditioning(vectors={"label": jnp.zeros(2, int)})),
    (5, Conditioning()),
    (0, Conditioning(vectors={"fps": jnp.zeros(2)})),
    (0, Conditioning(tokens={"text": Tokens(jnp.zeros((2, 1, 4)), jnp.ones((2, 1)))})),
  ],
)
def test_signals_that_it_cannot_hear_are_refused(num_classes, cond):
  x, t = inputs()
  with pytest.raises(ValueError, match=f"num_classes={num_classes} reads"):
    random_params(tiny(num_classes=num_classes), x, t, cond)
