"""VideoDiT: its sizes, what its blocks mix, and what must not change its result."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support import suite
from vdm_jax import sharding
from vdm_jax.conditioning import Conditioning, Tokens
from vdm_jax.models.transformer import video_dit

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
  rolled = np.roll(apply(params, np.roll(x, 2, axis=3), t), -2, axis=3)
  assert np.abs(backwards - apply(params, x, t)).max() > 1e-3
  assert np.abs(rolled - apply(params, x, t)).max() > 1e-3


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
  "fields",
  [
    dict(unroll=2, remat=True),
    *suite.only_complete(dict(remat=True), dict(remat="dots")),
  ],
  ids=str,
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


TEXT = np.random.default_rng(2).standard_normal((2, 5, 6)).astype(np.float32)


def texts(values=TEXT, mask=((1, 1, 1, 1, 1), (1, 1, 0, 0, 0))):
  return Conditioning(tokens={"text": Tokens(values, np.array(mask, bool))})


@pytest.fixture(scope="module")
def reader():
  """(module, parameters, jitted apply) of a network that reads texts."""
  module = tiny(layout=("serial",), depth=1, modulation="shared", text="cross")
  params = random_params(module, *inputs(), texts())
  return module, params, jax.jit(functools.partial(module.apply, {"params": params}))


def test_what_a_text_masks_is_not_there(reader):
  _, _, apply = reader
  x, t = inputs()
  out = apply(x, t, texts())
  short = texts(TEXT[1:, :2], ((1, 1),))
  np.testing.assert_allclose(out[1:], apply(x[1:], t[1:], short), atol=1e-5)
  unmasked = apply(x, t, texts(mask=np.ones((2, 5))))
  np.testing.assert_array_equal(unmasked[0], out[0])
  assert np.abs(unmasked[1] - out[1]).max() > 1e-2


def test_a_text_is_read_alone_as_in_a_batch_and_may_be_missing(reader):
  _, _, apply = reader
  x, t = inputs()
  mask = np.array([[1, 0, 1, 1, 1], [0] * 5], bool)
  out = apply(x, t, texts(mask=mask))
  assert np.isfinite(out).all()
  for i in range(2):
    alone = apply(x[i : i + 1], t[i : i + 1], texts(TEXT[i : i + 1], mask[i : i + 1]))
    np.testing.assert_allclose(out[i : i + 1], alone, atol=1e-5)
  edited = TEXT + (~mask)[..., None] * 100.0
  np.testing.assert_array_equal(apply(x, t, texts(edited, mask)), out)


@pytest.mark.parametrize("kind", ["absolute", "rotary"])
def test_positions_say_where_each_frame_is(kind):
  module = tiny(time_positions=kind, patch_time=2, layout=("temporal",), depth=1)
  x, t = inputs((2, 6, 2, 2, 3))
  params = random_params(module, x, t)
  apply = jax.jit(functools.partial(module.apply, {"params": params}))
  at = lambda places: Conditioning(positions=jnp.asarray(places, float))
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
  params = random_params(module, x, t)
  assert params["patchify"]["kernel"].shape == (2 * 2 * 2 * 3, 16)
  apply = jax.jit(lambda x, t: module.apply({"params": params}, x, t, NONE))
  out = apply(x, t)
  assert out.shape == (2, 4, 2, 2, 3)
  edited = x.copy()
  edited[:, 2] += 1.0
  change = np.abs(apply(edited, t) - out).max(axis=(0, 2, 3, 4))
  assert (change[2:] > 1e-3).all() and not change[:2].any()
  np.testing.assert_allclose(apply(x, t[:, [1, 0, 3, 2]]), out, atol=1e-5)
  assert np.abs(apply(x, t[:, [0, 0, 2, 2]]) - out).max() > 1e-3
  same = np.full_like(t, 300.0)
  np.testing.assert_allclose(apply(x, same), apply(x, same[:, 0]), atol=1e-5)
  with pytest.raises(ValueError, match="frames 5.*patch=2.*4 and 6"):
    random_params(module, *inputs((2, 5, 2, 2, 3)))


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
  label = lambda ids: Conditioning(vectors={"label": jnp.array(ids)})
  params = random_params(module, x, t, label([0, 1]))
  apply = jax.jit(functools.partial(module.apply, {"params": params}))
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
  params = random_params(module, x, t, pooled(1))
  apply = jax.jit(lambda p, scale: module.apply({"params": p}, x, t, pooled(scale)))
  assert np.abs(apply(params, 2.0) - apply(params, 1.0)).max() > 1e-3
  params["blocks"] = jax.tree.map(np.zeros_like, params["blocks"])
  np.testing.assert_array_equal(apply(params, 2.0), apply(params, 1.0))


@pytest.fixture(scope="module")
def together():
  """All tokens, in parallel blocks: 6 places and one token, of 2 heads one each way."""
  module = tiny(layout=("parallel",), depth=1, modulation="tokens", mask_channel=True)
  params = random_params(module, *inputs())
  return (
    module,
    params,
    jax.jit(lambda p, x, t: module.apply({"params": p}, x, t, NONE)),
  )


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
  "mesh, which",
  [
    (dict(seq=2), "network"),
    (dict(tensor=2), "together"),
    *suite.only_complete((dict(tensor=2), "network"), (dict(seq=2), "together")),
  ],
  ids=str,
)
def test_two_devices_compute_what_one_does(mesh, which, request):
  module, params, apply = request.getfixturevalue(which)
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
  with sharding.use_mesh(mesh, rules):
    boxed = jax.eval_shape(module.init, jax.random.key(0), x, t, NONE)["params"]
    placed = jax.device_put(params, sharding.param_shardings(boxed, mesh, rules))
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
    (dict(fusion="early"), "fusion='early'.*interleaved.*late"),
    (dict(modulation="adaLN"), "modulation='adaLN'.*block.*shared.*tokens"),
    (dict(time_positions="learned"), "time_positions='learned'.*rotary"),
    (dict(text="t5"), "text='t5'.*pooled.*cross"),
    (dict(one_frame="video"), "one_frame='video'.*clip.*image"),
    (dict(layout=("parallel",), num_heads=1), "num_heads=1 cannot be halved"),
    (dict(layout=("temporal",), modulation="tokens"), "add spatial blocks"),
    (dict(layout=("temporal",), text="cross"), "add spatial blocks"),
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


def test_positions_of_another_number_of_frames_are_refused():
  with pytest.raises(ValueError, match=r"positions has shape \(1, 3\).*\[2, 3\]"):
    random_params(tiny(), *inputs(), Conditioning(positions=jnp.zeros((1, 3))))


def test_a_pooled_text_is_one_vector_for_each_clip():
  with pytest.raises(ValueError, match=r"\(2, 5, 6\).*\[B, D\].*'cross'"):
    cond = Conditioning(vectors={"text": TEXT})
    random_params(tiny(text="pooled"), *inputs(), cond)


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
  with pytest.raises(ValueError, match=f"num_classes={num_classes} takes"):
    random_params(tiny(num_classes=num_classes), x, t, cond)
