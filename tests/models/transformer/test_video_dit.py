"""VideoDiT: its sizes, what its blocks mix, and what must not change its result."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.parallel import meshes
from tests.support import drawn, suite
from vdm_jax import sharding
from vdm_jax.conditioning import Conditioning, Tokens
from vdm_jax.models.transformer import blocks, video_dit

pytestmark = pytest.mark.usefixtures("unoptimized")

tiny = functools.partial(
  video_dit.VideoDiT, out_channels=3, patch=2, width=16, depth=2, num_heads=2
)
NONE = Conditioning()
CLIP = (2, 3, 4, 6, 3)


def inputs(shape=CLIP, seed=0):
  rng = np.random.default_rng(seed)
  x = rng.standard_normal(shape).astype(np.float32)
  return x, rng.uniform(0, 1000, shape[:2]).astype(np.float32)


def jitted(function):
  """It, compiled; its answers are numpy arrays."""
  run = jax.jit(function)
  return lambda *args: np.asarray(run(*args))


def compiled(**fields):
  """(module, random parameters, compiled apply)."""
  module = tiny(**fields)
  apply = jitted(lambda p, x, t: module.apply({"params": p}, x, t, NONE))
  return module, drawn.params(module, *inputs(), NONE), apply


@pytest.fixture(scope="module")
def network():
  return compiled()


def test_sizes_have_the_published_number_of_parameters():
  """Of all variants, for four latent channels in and eight out."""
  for size, fields, millions in (
    ("XL", dict(patch=2), 673.68),
    ("XL", dict(patch=4), 673.85),
    ("XL", dict(patch=8), 674.51),
    ("L", dict(patch=2), 456.82),
    ("L", dict(patch=4), 456.96),
    ("L", dict(patch=8), 457.55),
    ("B", dict(patch=2), 129.55),
    ("B", dict(patch=4), 129.66),
    ("B", dict(patch=8), 130.10),
    ("S", dict(patch=2), 32.48),
    ("S", dict(patch=4), 32.54),
    ("S", dict(patch=8), 32.76),
    ("XL", dict(num_classes=101), 673.80),  # the rows of UCF-101's classes
    ("XL", blocks.VARIANTS[2], 673.68),
    ("XL", dict(depth=23, **blocks.VARIANTS[3]), 676.36),
    ("XL", dict(depth=23, **blocks.VARIANTS[4]), 676.36),
  ):
    module = video_dit.VideoDiT(out_channels=8, **video_dit.SIZES[size] | fields)
    label = {"label": np.zeros(1, int)} if module.num_classes else {}
    cond = Conditioning(vectors=label)
    x = np.zeros((1, 2, 8, 8, 4), np.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), x, np.zeros(1), cond)
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert round(count / 1e6, 2) == millions


@pytest.mark.parametrize("variant", suite.choose(blocks.VARIANTS, 1))
def test_the_initial_network_answers_zero_and_its_blocks_are_ready(variant):
  x, t = inputs()
  module = tiny(**blocks.VARIANTS[variant] | dict(depth=4))
  start = jax.jit(lambda key: module.init_with_output(key, x, t, NONE))
  # This kind of key is cheap to compile for.
  out, variables = jax.device_get(start(jax.random.key(0, impl="rbg")))
  np.testing.assert_array_equal(out, np.zeros(x.shape))
  params = nn.meta.unbox(variables)["params"]
  stacked = {leaf.shape[0] for leaf in jax.tree.leaves(params["blocks"])}
  assert stacked == {4 // len(module.layout)}
  assert 0.015 < np.std(params["time"]["in"]["kernel"]) < 0.025
  block = params["blocks"][module.layout[-1]]
  assert not np.any(block["modulation"]["kernel"])
  if variant == 1:
    bound = np.sqrt(6 / (16 + 48))  # xavier-uniform
    first, second = block["attention"]["qkv"]["kernel"]
    assert 0.9 * bound < np.abs(first).max() <= bound
    assert np.abs(first - second).max() > 0.5 * bound  # layers differ


def test_both_kinds_together_mix_everything_and_know_the_order(network):
  _, params, apply = network
  x, t = inputs()
  t = np.full_like(t, 300.0)
  edited = x.copy()
  edited[:, 1, 0, 2] += 1.0
  out = apply(params, x, t)
  assert (np.abs(apply(params, edited, t) - out) > 0).mean() > 0.9
  # Without places in time or space these would be equal.
  backwards = apply(params, x[:, ::-1], t)[:, ::-1]
  rolled = np.roll(apply(params, np.roll(x, 2, axis=3), t), -2, axis=3)
  assert np.abs(backwards - out).max() > 1e-3
  assert np.abs(rolled - out).max() > 1e-3


def test_bfloat16_computes_close_and_keeps_float32_parameters(network):
  _, _, apply = network
  x, t = inputs()
  module = tiny(dtype=jnp.bfloat16)
  params = drawn.params(module, x, t, NONE, scale=0.1)
  assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
  out = np.asarray(jax.jit(lambda p: module.apply({"params": p}, x, t, NONE))(params))
  assert out.dtype == np.float32
  exact = apply(params, x, t)
  # It did compute in bfloat16.
  assert 0 < np.abs(out - exact).max() < 0.05 * np.abs(exact).max()


def test_channels_and_the_mask_enter_as_input_channels():
  x, t = inputs((2, 3, 4, 4, 3))
  first = x[:, :1, ..., :2] + 1.0  # [B, 1, H, W, 2]: one frame for all
  mask = np.broadcast_to(np.arange(3).reshape(3, 1, 1, 1) == 0, (2, 3, 1, 1, 1))
  module = tiny(layout=("spatial",), depth=1, mask_channel=True)
  cond = Conditioning(channels={"first_frame": first}, mask=mask)
  params = drawn.params(module, x, t, cond)
  assert params["patchify"]["kernel"].shape == (2 * 2 * (3 + 2 + 1), 16)
  apply = jitted(lambda cond: module.apply({"params": params}, x, t, cond))
  out = apply(cond)
  other = apply(cond.replace(channels={"first_frame": first + 1.0}))
  assert np.abs(other - out).max() > 1e-2
  assert np.abs(apply(cond.replace(mask=~mask)) - out).max() > 1e-2
  # No mask means that no frame is given.
  nothing = apply(cond.replace(mask=np.zeros_like(mask)))
  np.testing.assert_allclose(apply(cond.replace(mask=None)), nothing, atol=1e-5)
  blind = tiny(mask_channel=False)
  cond = Conditioning(mask=mask)
  assert drawn.params(blind, x, t, cond)["patchify"]["kernel"].shape == (2 * 2 * 3, 16)


TEXT = np.random.default_rng(2).standard_normal((2, 5, 6)).astype(np.float32)


@pytest.mark.parametrize("kind", ["absolute", "rotary"])
def test_positions_say_where_each_frame_is(kind):
  module = tiny(time_positions=kind, patch_time=2, layout=("temporal",), depth=1)
  x, t = inputs((2, 6, 2, 2, 3))
  params = drawn.params(module, x, t, NONE)
  apply = jitted(functools.partial(module.apply, {"params": params}))
  at = lambda places: Conditioning(positions=np.asarray(places, np.float32))
  plain = np.broadcast_to(np.arange(6), (2, 6))
  out = apply(x, t, NONE)
  np.testing.assert_allclose(apply(x, t, at(plain)), out, atol=1e-5)
  gaps = plain.copy()
  gaps[1, 2:] += 10  # a gap in the second example only
  gone = apply(x, t, at(gaps))
  np.testing.assert_allclose(gone[0], out[0], atol=1e-5)
  assert np.abs(gone[1] - out[1]).max() > 1e-2
  # Later in the video: heard, or not, for the distances are the same.
  later = np.abs(apply(x, t, at(plain + 40)) - out).max()
  assert later > 1e-2 if kind == "absolute" else later < 1e-4


def test_a_tubelet_is_one_token_and_its_frames_share_a_time():
  module = tiny(layout=("spatial",), depth=1, patch_time=2)
  x, t = inputs((2, 4, 2, 2, 3))
  params = drawn.params(module, x, t, NONE)
  assert params["patchify"]["kernel"].shape == (2 * 2 * 2 * 3, 16)
  apply = jitted(lambda x, t: module.apply({"params": params}, x, t, NONE))
  out = apply(x, t)
  assert out.shape == (2, 4, 2, 2, 3)
  edited = x.copy()
  edited[:, 2] += 1.0
  change = np.abs(apply(edited, t) - out).max(axis=(0, 2, 3, 4))
  assert (change[2:] > 1e-3).all() and not change[:2].any()
  np.testing.assert_allclose(apply(x, t[:, [1, 0, 3, 2]]), out, atol=1e-5)
  assert np.abs(apply(x, t[:, [0, 0, 2, 2]]) - out).max() > 1e-3
  same = np.full_like(t, 300.0)
  for one in (same[:, 0], same[:, :1]):  # one time for all frames of a clip
    np.testing.assert_allclose(apply(x, same), apply(x, one), atol=1e-5)


@pytest.mark.parametrize("modulation", ["block", "shared", "tokens"])
def test_each_modulation_hears_time_frame_by_frame_and_the_class(modulation):
  module = tiny(
    layout=("spatial",),
    depth=1,
    modulation=modulation,
    num_classes=3,
    mask_channel=True,
  )
  x, t = inputs()
  label = lambda ids: Conditioning(vectors={"label": np.array(ids)})
  params = drawn.params(module, x, t, label([0, 1]))
  apply = jitted(functools.partial(module.apply, {"params": params}))
  out = apply(x, t, label([0, 1]))
  later = t.copy()
  later[:, 1] = 0.0
  change = np.abs(apply(x, later, label([0, 1])) - out).max(axis=(0, 2, 3, 4))
  assert change[1] > 1e-3
  np.testing.assert_array_equal(change[[0, 2]], 0.0)
  change = np.abs(apply(x, t, label([2, 1])) - out)
  assert change[0].max() > 1e-3 and not change[1].any()


def test_the_pooled_text_reaches_the_blocks_and_not_the_last_layer():
  module = tiny(layout=("spatial",), depth=1, text="pooled")
  x, t = inputs()
  pooled = lambda scale: Conditioning(vectors={"text": scale * TEXT[:, 0]})
  params = drawn.params(module, x, t, pooled(1))
  apply = jitted(lambda p, scale: module.apply({"params": p}, x, t, pooled(scale)))
  assert np.abs(apply(params, 2.0) - apply(params, 1.0)).max() > 1e-3
  params["blocks"] = jax.tree.map(np.zeros_like, params["blocks"])
  np.testing.assert_array_equal(apply(params, 2.0), apply(params, 1.0))


@pytest.fixture(scope="module")
def together():
  """All tokens, in parallel blocks: 6 places and one token, of 2 heads one each way."""
  return compiled(layout=("parallel",), depth=1, modulation="tokens", mask_channel=True)


def test_all_tokens_are_read_and_only_the_places_answer(together):
  _, params, apply = together
  x, t = inputs()
  edited, later = x.copy(), t.copy()
  edited[:, 1, 0, 2] += 1.0
  later[:, 1] += 100.0
  assert np.abs(apply(params, x, later) - apply(params, x, t)).max() > 1e-3
  # In blocks that do nothing no token meets another.
  still = params | {"blocks": jax.tree.map(np.zeros_like, params["blocks"])}
  np.testing.assert_array_equal(apply(still, x, later), apply(still, x, t))
  change = np.abs(apply(still, edited, t) - apply(still, x, t)).max(axis=(0, 4))
  assert (change[1, :2, 2:4] > 1e-4).all()
  change[1, :2, 2:4] = 0.0
  assert not change.any()


@pytest.mark.parametrize(
  "axes, which",
  [
    (dict(seq=2), "network"),
    (dict(tensor=2), "together"),
    *suite.only_complete((dict(tensor=2), "network"), (dict(seq=2), "together")),
  ],
  ids=str,
)
def test_two_devices_compute_what_one_does(axes, which, request):
  module, params, apply = request.getfixturevalue(which)
  x, t = inputs()  # 3 frames do not divide by 2
  mesh = meshes.mesh(axes)
  with sharding.use_mesh(mesh, meshes.RULES):
    boxed = jax.eval_shape(module.init, jax.random.key(0), x, t, NONE)["params"]
    placed = jax.device_put(params, sharding.param_shardings(boxed, mesh, meshes.RULES))
    out = jax.jit(lambda p: module.apply({"params": p}, x, t, NONE))(placed)
  np.testing.assert_allclose(out, apply(params, x, t), atol=1e-4)


def test_fields_that_mean_nothing_are_refused():
  for message, fields in (
    ("depth=3.*multiple of 2", dict(depth=3)),
    ("layout=.*'spatial', 'temporal'", dict(layout=("spacial",))),
    ("at most once", dict(layout=("spatial", "spatial"))),
    ("remat='some'.*full", dict(remat="some")),
    ("fusion='early'.*interleaved.*late", dict(fusion="early")),
    ("modulation='adaLN'.*block.*shared.*tokens", dict(modulation="adaLN")),
    ("time_positions='learned'.*rotary", dict(time_positions="learned")),
    ("text='t5'.*pooled.*cross", dict(text="t5")),
    ("one_frame='video'.*clip.*image", dict(one_frame="video")),
    ("num_heads=1 cannot be halved", dict(layout=("parallel",), num_heads=1)),
    ("add spatial blocks", dict(layout=("temporal",), modulation="tokens")),
    ("add spatial blocks", dict(layout=("temporal",), text="cross")),
    ("divisible by 4", dict(width=18)),
    ("num_heads=3", dict(num_heads=3)),
  ):
    with pytest.raises(ValueError, match=message):
      drawn.params(tiny(**fields), np.zeros((1, 2, 4, 4, 3)), np.zeros(1), NONE)


PLACES = Conditioning(positions=np.zeros((1, 3)))
LABEL, FPS, POOLED = (
  Conditioning(vectors=x)
  for x in ({"label": np.zeros(2, int)}, {"fps": np.zeros(2)}, {"text": TEXT})
)
READ = Conditioning(tokens={"text": Tokens(TEXT, np.ones((2, 5), bool))})


def test_inputs_that_do_not_fit_are_refused():
  for x, t, cond, fields, message in (
    ((1, 2, 5, 4, 3), (1, 2), NONE, {}, "height 5.*patch=2.*4 and 6"),
    ((1, 2, 4, 1, 3), (1, 2), NONE, {}, "width 1.*nearest: 2"),
    ((2, 5, 2, 2, 3), (2, 5), NONE, dict(patch_time=2), "frames 5.*patch=2.*4 and 6"),
    ((2, 4, 4, 3), (2,), NONE, {}, r"\[B, T, H, W, C\]"),
    (CLIP, (3,), NONE, {}, "t has shape"),
    (CLIP, (2, 2), NONE, {}, "t has shape"),
    (CLIP, (2, 3, 1), NONE, {}, "t has shape"),
    (CLIP, (2, 3), PLACES, {}, r"positions has shape \(1, 3\).*\[2, 3\]"),
    (CLIP, (2, 3), POOLED, dict(text="pooled"), r"\(2, 5, 6\).*\[B, D\].*'cross'"),
    (CLIP, (2, 3), LABEL, {}, "num_classes=0 takes"),
    (CLIP, (2, 3), NONE, dict(num_classes=5), "num_classes=5 takes"),
    (CLIP, (2, 3), FPS, {}, "num_classes=0 takes"),
    (CLIP, (2, 3), READ, {}, "num_classes=0 takes"),
  ):
    with pytest.raises(ValueError, match=message):
      drawn.params(tiny(**fields), np.zeros(x), np.zeros(t), cond)
