"""I3D and the distance on its logits equal the original code, cd-fvd 0.1.1."""

import jax
import numpy as np
import pytest
from einops import rearrange

from tests.support import golden_files
from vdm_jax.metrics import frechet, fvd, i3d, score

META, Z = golden_files.read("i3d_fvd")


@pytest.fixture(scope="module")
def found():
  return golden_files.weights(META)


@pytest.fixture(scope="module")
def params(found):
  return i3d.from_state_dict(found)


features = jax.jit(i3d.last_feature_map)


@jax.jit
def frames_and_logits(params, videos, scale):
  """What the network reads, resized, and the logits of `scale` times that."""
  x = i3d.preprocess(videos, (199, 211))
  return x, i3d.logits(params, scale * x)


def close(got, want, tolerance=1e-4):
  bound = tolerance * max(1.0, np.abs(want).max())
  return np.abs(np.asarray(got) - want).max() <= bound


def test_the_convolutions_equal_the_originals(params):
  """9 x 17 x 35: every stride meets an odd size, so the padding is not symmetric."""
  small = rearrange(Z["in_small"], "n c t h w -> n t h w c")
  got = rearrange(np.asarray(features(params, small)), "n t h w c -> n c t h w")
  assert close(got[:, ::4], Z["out_small_pre_pool"])
  assert close(got.mean((2, 3, 4)), Z["out_scale4_mean"])
  unit = features(params, small / np.float32(META["config"]["small_scale"]))
  assert close(np.asarray(unit).mean((1, 2, 3)), Z["out_unit_scale4_mean"])
  # Negative control: one running variance of one channel.
  wrong = {k: dict(v) for k, v in params.items()}
  gain = wrong["Mixed_3b.b1b"]["gain"].copy()
  gain[3] *= 1.5
  wrong["Mixed_3b.b1b"]["gain"] = gain
  mean = np.asarray(features(wrong, small)).mean((1, 2, 3))
  assert not close(mean, Z["out_scale4_mean"])


def test_the_resized_frames_and_the_logits_equal_the_originals(params):
  x, logits = frames_and_logits(params, Z["in_video1"], np.float32(1))
  _, scaled = frames_and_logits(
    params, Z["in_video1"], np.float32(META["config"]["video_scale"])
  )
  assert close(logits, Z["out_logits1"])
  assert close(scaled, Z["out_logits_scaled1"])
  x = rearrange(np.asarray(x), "n t h w c -> n c t h w")
  assert close(x.mean((3, 4)), Z["out_preprocessed_mean1"], 1e-5)
  assert close(x[:, :, ::5, ::61, ::53], Z["out_preprocessed_crop1"], 1e-5)
  with pytest.raises(ValueError, match="at least 10 frames"):
    frames_and_logits(params, Z["in_video1"][:, :8], np.float32(1))


def test_the_distance_equals_the_originals():
  got = frechet.distance(Z["in_feat_a"], Z["in_feat_b"], ddof=1)
  np.testing.assert_allclose(got, Z["out_frechet"], rtol=1e-5)
  biased = frechet.distance(Z["in_feat_a"], Z["in_feat_b"], ddof=0)
  assert abs(biased - Z["out_frechet"]) > 1e-3 * Z["out_frechet"]


def test_missing_and_misshapen_weights_are_named(found):
  wrong = dict(found)
  del wrong["Mixed_4c.b2a.bn.bias"]
  wrong["logits.conv3d.bias"] = np.zeros(399, np.float32)
  with pytest.raises(ValueError) as error:
    i3d.from_state_dict(wrong)
  for part in ("I3D", "missing Mixed_4c.b2a.bn.bias", "logits.conv3d.bias has shape"):
    assert part in str(error.value)


def test_without_a_file_there_is_no_number(caplog):
  assert fvd.fvd_score_rows(None, i3d_file="") == []
  assert "FVD is left out" in caplog.text


def test_the_row_says_how_it_was_measured(monkeypatch):
  class Colour:  # features in closed form: the distance is that of two means
    def __init__(self, file, batch_size):
      assert file == "i3d.npz"

    def features(self, videos):
      return videos.mean((1, 2, 3)).astype(float)

  monkeypatch.setattr(fvd, "I3DFeatures", Colour)
  rng = np.random.default_rng(0)
  draw = lambda n, mean: np.clip(
    rng.normal(mean, 2.0, (n, 1, 1, 1, 3)).repeat(4, 1), 0, 255
  ).astype(np.uint8)
  evidence = score.EvaluationData(
    samples=score.LabelledVideos(videos=draw(500, 140)),
    real=score.LabelledVideos(videos=draw(500, 100)),
    train=score.LabelledVideos(videos=draw(700, 100)),
  )
  (row,) = fvd.fvd_score_rows(evidence, i3d_file="i3d.npz")
  np.testing.assert_allclose(row.samples.value, 3 * 40**2, rtol=0.02)
  assert row.real.value < 0.5
  protocol = row.samples.protocol
  assert protocol.frames == 4 and protocol.settings["reference"] == 700
  assert protocol.settings["ddof"] == 0 and "224" in protocol.resize


def test_a_batch_that_is_not_full_is_padded(found, tmp_path, monkeypatch):
  path = tmp_path / "i3d.npz"
  np.savez(path, **found)
  extractor = fvd.I3DFeatures(path, batch_size=2)
  seen = []

  def apply(params, x):
    seen.append(len(x))
    return x.mean((1, 2, 3))

  monkeypatch.setattr(extractor, "_apply", apply)
  videos = np.random.default_rng(0).integers(0, 255, (5, 2, 4, 4, 3), np.uint8)
  np.testing.assert_allclose(extractor.features(videos), videos.mean((1, 2, 3)))
  assert seen == [2, 2, 2]
