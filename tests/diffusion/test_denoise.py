"""Guidance is its closed form in one call; given frames are held to the bit."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.conditioning import Conditioning, Tokens
from vdm_jax.diffusion import denoise as d
from vdm_jax.diffusion import guidance
from vdm_jax.diffusion import process as p

B, T = 3, 4
SHAPE = (B, T, 2, 2, 3)
RNG = np.random.default_rng(0)
X = RNG.standard_normal(SHAPE).astype(np.float32)
TIME = RNG.uniform(0.2, 0.8, (B, T)).astype(np.float32)
COND = Conditioning(
  tokens={"text": Tokens(RNG.standard_normal((B, 2, 3)), np.ones((B, 2), bool))},
  vectors={"label": np.arange(1, B + 1)},
  channels={"image": RNG.standard_normal(SHAPE).astype(np.float32)},
)
NULL = jax.tree.map(np.zeros_like, COND)
DROP = {"text": ("text",), "both": ("text", "image"), "label": ("label",)}


class Network:
  """An affine network that hears every signal, and counts its calls."""

  def __init__(self):
    self.batches = []

  def __call__(self, x, t, cond):
    self.batches.append(x.shape[0])
    text = jnp.mean(cond.tokens["text"].values, (1, 2)) + cond.vectors["label"]
    text = text[:, None, None, None, None]
    return 0.3 * x + text * p.expand(t) / 1000 + 0.2 * cond.channels["image"]


def called(denoise, cond=COND):
  """A denoiser's answer, compiled."""
  return jax.tree.map(np.asarray, jax.jit(denoise)(X, TIME, cond))


@functools.cache
def without(*names):
  """The estimate of x0 without these signals, from a call of its own."""
  cond = COND
  for group, name in (("tokens", "text"), ("vectors", "label"), ("channels", "image")):
    if name in names:
      cond = cond.replace(**{group: getattr(NULL, group)})
  return called(d.from_network(Network(), p.Flow(), "velocity"), cond).x0


def guided(drop, scales):
  network = Network()
  denoise = d.from_network(network, p.Flow(), "velocity")
  out = called(guidance.guide(denoise, NULL, drop=drop, scales=scales))
  return out.x0, network.batches


def test_a_network_is_read_as_an_estimate_of_x0():
  flow = d.from_network(Network(), p.Flow(), "velocity")
  velocity = called(lambda x, t, cond: Network()(x, 1000 * t, cond))
  np.testing.assert_allclose(without(), X - p.expand(TIME) * velocity, rtol=1e-4)
  assert jax.eval_shape(flow, X, TIME, COND).variance_fraction is None
  with pytest.raises(ValueError, match="'noise'; expected one of"):
    d.from_network(Network(), p.Flow(), "noise")
  twice = lambda x, t, cond: jnp.concatenate([x, x], -1)
  out = called(d.from_network(twice, p.Flow(), "x0"))
  np.testing.assert_allclose(out.x0, X, atol=1e-6)
  np.testing.assert_allclose(out.variance_fraction, (X + 1) / 2, atol=1e-6)
  more = lambda x, t, cond: jnp.concatenate([x, x, x], -1)
  with pytest.raises(ValueError, match="learned variance"):
    d.from_network(more, p.Flow(), "eps")(X, TIME, COND)


def test_guidance_is_its_closed_form_in_one_call():
  out, batches = guided((DROP["label"],), (7.5,))
  full, empty = without(), without("label")
  np.testing.assert_allclose(out, empty + 7.5 * (full - empty), atol=2e-5)
  assert batches == [2 * B]
  np.testing.assert_array_equal(guided(("label",), (7.5,))[0], out)  # a bare name
  # Each example is guided by its own label.
  assert not np.allclose(out, empty + 7.5 * (full[::-1] - empty[::-1]), atol=1e-2)


def test_guidance_by_text_and_image_has_three_branches():
  out, batches = guided((DROP["text"], DROP["both"]), (7.5, 3.0))
  full, image, empty = without(), without("text"), without("text", "image")
  expected = empty + 7.5 * (full - image) + 3.0 * (image - empty)
  np.testing.assert_allclose(out, expected, atol=2e-5)
  assert batches == [3 * B]


def test_scale_one_is_the_conditional_and_zero_the_unconditional_estimate():
  out, batches = guided((DROP["label"],), (1.0,))
  np.testing.assert_array_equal(out, without())
  assert batches == [B]  # nothing to guide, nothing to pay
  ones, _ = guided((DROP["label"],), (np.ones(()),))
  np.testing.assert_allclose(ones, without(), atol=1e-6)
  zero, _ = guided((DROP["label"],), (0.0,))
  np.testing.assert_allclose(zero, without("label"), atol=1e-6)
  both, batches = guided((DROP["text"], DROP["both"]), (1.0, 1.0))
  np.testing.assert_allclose(both, without(), atol=1e-6)


def test_scales_may_change_over_frames_times_and_channels():
  full, empty = without(), without("label")
  at = lambda scale: empty + scale * (full - empty)
  frames = np.linspace(1.0, 2.5, T).astype(np.float32)
  column = frames[:, None, None, None]
  rising = functools.partial(guidance.linear_over_frames, start=1.0, stop=2.5)
  channels = np.array([[[4.0, 4.0, 1.0]]])  # DiT leaves the last ones alone
  forms = column, frames.tolist(), rising, lambda t: column
  cases = [(form, column) for form in forms]
  cases += [(lambda t: 1.0 + t, 1.0 + p.expand(TIME)), (channels[None], channels)]

  def all_forms(*args):
    denoise = d.from_network(Network(), p.Flow(), "velocity")
    by = lambda form: guidance.guide(denoise, NULL, drop=("label",), scales=(form,))
    return [by(form)(*args).x0 for form, _ in cases]

  for out, (_, scale) in zip(called(all_forms), cases, strict=True):
    np.testing.assert_allclose(out, at(scale), atol=1e-5)


def test_an_interval_guides_inside_it_only():
  scale = functools.partial(guidance.interval_scale, scale=5.0, low=0.4, high=0.6)
  t = np.float32([[0.3, 0.4, 0.5, 0.6, 0.7]])
  np.testing.assert_array_equal(jax.jit(scale)(t), [[1, 1, 5, 5, 1]])
  full, empty = without(), without("label")
  out, _ = guided((DROP["label"],), (scale,))
  inside = (TIME > 0.4) & (TIME <= 0.6)
  assert inside.any() and not inside.all()
  np.testing.assert_allclose(out[~inside], full[~inside], atol=1e-6)
  there = (empty + 5 * (full - empty))[inside]
  np.testing.assert_allclose(out[inside], there, atol=1e-5)


def test_guidance_keeps_the_conditional_variance():
  def denoise(x_t, t, cond):
    label = cond.vectors["label"][:, None, None, None, None] * jnp.ones_like(x_t)
    return d.Denoised(x_t, variance_fraction=label)

  out = called(guidance.guide(denoise, NULL, drop=(("label",),), scales=(3.0,)))
  np.testing.assert_array_equal(out.variance_fraction[:, 0, 0, 0, 0], [1, 2, 3])


def test_wrong_guidance_is_refused():
  for drop, scales in (
    ((("text",),), (7.5, 3.0)),
    ((("text",), ("image",)), (7.5,)),
    ((), ()),
  ):
    with pytest.raises(ValueError, match="one scale for each set"):
      guided(drop, scales)
  with pytest.raises(KeyError, match="there are"):
    guided((("lable",),), (2.0,))
  with pytest.raises(ValueError, match="5 scales over frames for 4 frames"):
    guided((("label",),), ([1.0] * 5,))


def test_dynamic_thresholds_are_quantiles_of_each_clip():
  x0 = 4.0 * X
  threshold = jax.jit(lambda x0: d.dynamic_threshold(x0, ratio=0.9, max_bound=3.0))
  out = threshold(x0)
  for i in range(B):
    bound = np.clip(np.quantile(np.abs(x0[i]), 0.9), 1.0, 3.0)
    np.testing.assert_allclose(out[i], np.clip(x0[i], -bound, bound) / bound, rtol=1e-5)
  np.testing.assert_allclose(threshold(0.1 * X), 0.1 * X)
  np.testing.assert_array_equal(d.clip_x0(x0, bound=2.0), np.clip(x0, -2.0, 2.0))


def test_given_frames_are_held_at_time_zero():
  known = RNG.standard_normal(SHAPE).astype(np.float32)
  mask = np.zeros((B, T, 1, 1, 1), bool)
  mask[:, :2] = mask[0, 3] = True
  cond = COND.replace(known=known, mask=mask)
  null = NULL.replace(known=known, mask=mask)
  guide = functools.partial(guidance.guide, drop=(("label",),), scales=(3.0,))

  def held(*args):
    seen = {}

    def denoise(x_t, t, cond):
      seen.update(x=x_t, t=t)
      return d.Denoised(2.0 * x_t + 1.0)

    out = d.apply_wrappers(denoise, (guide, d.hold_known), null)(*args).x0
    return out, seen

  out, seen = called(held, cond)
  where = np.broadcast_to(mask, SHAPE)
  np.testing.assert_array_equal(out[where], known[where])
  np.testing.assert_allclose(out[~where], 2 * X[~where] + 1, rtol=1e-6)
  np.testing.assert_array_equal(seen["x"][::2], np.where(mask, known, X))
  np.testing.assert_array_equal(seen["t"][::2], np.where(mask[..., 0, 0, 0], 0.0, TIME))
  with pytest.raises(ValueError, match="needs cond.mask and cond.known"):
    d.hold_known(None, null)(X, TIME, COND)
