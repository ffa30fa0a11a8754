"""The closed form equals the count on the jaxpr, to the last product."""

import jax
import numpy as np
import pytest

from experiments.speed import analytic
from vdm_jax import sharding
from vdm_jax.aot import flops
from vdm_jax.conditioning import Conditioning, Tokens
from vdm_jax.models.transformer import blocks, video_dit

SHAPE = (2, 4, 8, 12, 3)
BASE = dict(out_channels=6, width=24, depth=4, num_heads=4, patch=2)
FIELDS = {
  "latte": dict(num_classes=5),
  "variant 2": blocks.VARIANTS[2],
  "variant 3": blocks.VARIANTS[3],
  "variant 4": blocks.VARIANTS[4],
  "full": dict(layout=("full",)),
  "temporal": dict(layout=("temporal",), patch=4),
  "tubelets": dict(patch_time=2, modulation="shared", num_classes=3),
  "tokens": dict(modulation="tokens", num_classes=3),
  "text": dict(text="cross", modulation="shared"),
  "pooled": dict(text="pooled"),
  "dit": dict(layout=("spatial",), embedders="block", num_classes=5),
  "gated": dict(activation="swiglu", mlp_ratio=3.0),
  "remat": dict(remat="full", unroll=2),
}
TEXT = (7, 10)


def count(network, times):
  """FLOPs of one forward pass, on the jaxpr."""
  b, frames = SHAPE[:2]
  vectors, tokens = {}, {}
  if network.num_classes:
    vectors["label"] = np.zeros(b, np.int32)
  if network.text == "pooled":
    vectors["text"] = np.zeros((b, TEXT[1]), np.float32)
  if network.text == "cross":
    values = np.zeros((b, *TEXT), np.float32)
    tokens["text"] = Tokens(values, np.ones(values.shape[:2], bool))
  cond = Conditioning(vectors=vectors, tokens=tokens)
  x, t = np.zeros(SHAPE, np.float32), np.zeros((b, times), np.float32)
  params = jax.eval_shape(network.init, jax.random.key(0), x, t, cond)
  return flops.flop_count_of_call(
    network.apply, sharding.unbox(params), x, t, cond
  ).flops


@pytest.mark.parametrize("times", [1, 4])
@pytest.mark.parametrize("name", FIELDS)
def test_the_closed_form_equals_the_count(name, times):
  network = video_dit.VideoDiT(**BASE | FIELDS[name])
  expected = analytic.video_dit_flops(network, SHAPE, text=TEXT, times=times)
  assert count(network, times) == expected


def test_another_size_is_another_count():
  """The control: the closed form does not follow a network that differs a little."""
  network = video_dit.VideoDiT(**BASE)
  other = video_dit.VideoDiT(**BASE | dict(mlp_ratio=3.5))
  assert count(other, 1) != analytic.video_dit_flops(network, SHAPE)


def test_latte_costs_what_the_paper_says():
  """Table 2 of https://arxiv.org/abs/2401.03048: 5572 GFLOPs of XL/2, in products.

  They count one forward pass of 16 x 256 x 256 pixels; so do we, twice the products.
  """
  network = video_dit.VideoDiT(out_channels=8, **video_dit.SIZES["XL"])
  forward = analytic.video_dit_flops(network, (1, 16, 32, 32, 4))
  assert forward == 3_725_650_722_816
