"""Masks look like their names and are drawn at their rates."""

import jax
import numpy as np
import pytest

from vdm_jax.diffusion import masks

T = 6


def test_masks_look_like_their_names():
  for name, given in (
    ("first", [0]),
    ("first:3", [0, 1, 2]),
    ("last", [5]),
    ("last:2", [4, 5]),
    ("ends", [0, 5]),
    ("ends:2", [0, 1, 4, 5]),
    ("every", [0, 2, 4]),
    ("every:3", [0, 3]),
  ):
    np.testing.assert_array_equal(np.flatnonzero(masks.from_name(name, T)), given)


RATES = {"mixed": {"first": 0.3, "ends:2": 0.2, "random": 0.1}, "none": {}}
RATES |= {"random": {"random": 1.0}, "sure": {"first:2": 1.0}, "never": {"first": 0.0}}


@pytest.fixture(scope="module")
def rows():
  """{name: 4000 masks [4000, T] at these rates}, one draw of random numbers for all."""
  of = lambda key, rates: masks.sample_masks(key, 4000, T, rates)
  draw = jax.jit(lambda key: {name: of(key, rates) for name, rates in RATES.items()})
  out = jax.tree.map(np.asarray, draw(jax.random.key(1)))
  assert all(x.shape == (4000, T, 1, 1, 1) and x.dtype == bool for x in out.values())
  return {name: x[..., 0, 0, 0] for name, x in out.items()}


def test_random_masks_have_every_size_but_all(rows):
  counts = np.bincount(rows["random"].sum(1), minlength=T + 1)
  assert counts[T] == 0 and (counts[:T] > 133).all()


def test_masks_are_drawn_at_their_rates(rows):
  share = lambda mask: (rows["mixed"] == mask).all(1).mean()
  # A random mask may look like the others; that is rare: at most a sixth of 0.1.
  assert abs(share(masks.first_mask(T)) - 0.3) < 0.05
  assert abs(share(masks.ends_mask(T, 2)) - 0.2) < 0.05
  assert abs(share(np.zeros(T, bool)) - 0.4) < 0.06
  assert not rows["mixed"].all(1).any()


def test_certain_and_no_masks(rows):
  np.testing.assert_array_equal(rows["sure"], [[1, 1, 0, 0, 0, 0]] * 4000)
  assert not rows["never"].any() and not rows["none"].any()


REFUSED = dict.fromkeys(("frist", "first:x", "random:2", ""), "No mask is called.*ends")
USELESS = ("first:6", "first:0", "ends:3", "every:1", "last:7")
REFUSED |= dict.fromkeys(USELESS, "leaves no known frame")


def test_unknown_masks_and_those_that_give_all_or_nothing_are_refused():
  for name, message in REFUSED.items():
    with pytest.raises(ValueError, match=message):
      masks.from_name(name, T)


def test_wrong_rates_are_refused():
  for rates in ({"first": 0.6, "ends": 0.5}, {"first": -0.1}):
    with pytest.raises(ValueError, match="sum to <= 1"):
      masks.sample_masks(jax.random.key(0), 2, T, rates)


def test_masks_are_given_in_any_shape():
  mask = np.arange(T) < 2
  expected = np.broadcast_to(mask[None, :, None, None, None], (3, T, 1, 1, 1))
  for form in (mask, np.stack([mask] * 3), expected, expected[:1], list(mask)):
    np.testing.assert_array_equal(masks.broadcast(form, 3, T), expected)
  for wrong in (np.zeros(5, bool), np.zeros((3, T, 2, 2, 1), bool)):
    with pytest.raises(ValueError, match="with T = 6"):
      masks.broadcast(wrong, 3, T)
