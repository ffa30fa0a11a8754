"""Tiny runs of the latent and cascaded video U-Nets, to the end."""

import re

import flax
import numpy as np
import pytest

from tests.configs import tiny
from vdm_jax import checkpoint
from vdm_jax.programs import sample

pytestmark = pytest.mark.long


@pytest.mark.parametrize("name", tiny.VIDEO_UNETS)
def test_tiny_runs_to_the_end(name, runs):
  tiny.check(*runs(name))


def test_align_your_latents_trains_the_decoder_and_leaves_the_encoder(runs):
  _, workdir = runs("configs.video_ldm")
  flat = lambda tree: flax.traverse_util.flatten_dict(tree, sep="/")
  read = lambda folder, part: flat(
    checkpoint.restore_part(workdir / folder / "checkpoints", part)
  )
  before = read("autoencoder", "ema/autoencoder")
  frozen, trained = read("decoder", "frozen/autoencoder"), read("decoder", "params")
  assert {name.split("/")[0] for name in frozen} == {"encoder", "quant_conv", "latents"}
  # An encoder of full depth starts with these as the identity, and stays there.
  deeper = {
    n for n in frozen if re.match("encoder/mid_block/(resnets_1|attentions)", n)
  }
  for name in set(frozen) - deeper:
    np.testing.assert_array_equal(frozen[name], before[name], err_msg=name)
  images = {n for n in before if n.startswith(("decoder", "post_quant_conv"))}
  again = {re.sub("spatial_res_block/", "", n): x for n, x in trained.items()}
  assert images and {f"autoencoder/{name}" for name in images} < set(again)
  moved = [np.any(again[f"autoencoder/{n}"] != before[n]) for n in images]
  assert all(moved)
  assert any("temporal_res_block" in name for name in trained)


def test_lvdm_predicts_and_fills_in(runs):
  cfg, workdir = runs("configs.lvdm")
  with np.load(workdir / "long" / sample.VIDEOS) as file:
    assert file["video"].shape[1] == 5
  for folder, length in (("denoiser", 2), ("filler", 3)):
    params = checkpoint.restore_part(workdir / folder / "checkpoints", "ema")
    names = flax.traverse_util.flatten_dict(params, sep="/")
    places = {x.shape[0] for n, x in names.items() if "relative" in n}
    assert places == {2 * length + 1}, sorted(names)
