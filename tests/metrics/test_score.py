"""Numbers carry their protocol, and refuse to be compared with others'."""

import dataclasses
import json

import numpy as np
import pytest

from tests.support.refusals import refused
from vdm_jax.metrics import score

PROTOCOL = score.Protocol(metric="psnr (dB)", frames=8, count=250, seed=0)


def test_numbers_of_one_protocol_compare():
  three, one = (score.Score(x, PROTOCOL) for x in (3.0, 1.0))
  assert score.subtract_comparable_scores(three, one) == 2.0


def test_numbers_of_other_protocols_do_not():
  changes = dict(extractor="i3d", frames=16, stride=3, resize="bilinear 224")
  for name, value in (changes | dict(count=2048, seed=1, settings={"ddof": 0})).items():
    other = score.Score(1.0, dataclasses.replace(PROTOCOL, **{name: value}))
    with pytest.raises(score.ProtocolMismatchError, match=name):
      score.subtract_comparable_scores(score.Score(3.0, PROTOCOL), other)


def test_scores_survive_json_and_refuse_foreign_entries():
  a = score.Score(3.0, PROTOCOL)
  assert score.from_json(json.loads(json.dumps(score.to_json(a)))) == a
  assert score.from_json(score.to_json(None)) is None
  with pytest.raises(ValueError, match="no score"):
    score.from_json({"value": 3.0})


def test_clips_of_another_length_or_size_are_not_compared():
  clips = lambda *shape: score.LabelledVideos(videos=np.zeros((2, *shape, 3), np.uint8))
  own = clips(8, 16, 16)
  data = lambda **x: score.EvaluationData(**dict(samples=own, train=own) | x)
  row = data(real=own).row("sum", lambda x: x.videos.sum())
  assert row.real.protocol == row.samples.protocol
  total = lambda x: x.videos.sum()
  calls = {
    "8 frames of 16 x 16 pixels, the real clips 4 of": (
      lambda: data(real=clips(4, 16, 16)).row("sum", total)
    ),
    "the real clips 8 of 16 x 18": lambda: data(real=clips(8, 16, 18)).row("a", total),
    "the train clips 8 of 12 x 16": (
      lambda: data(real=own, train=clips(8, 12, 16)).check_alike("train")
    ),
  }
  refused(score.ProtocolMismatchError, calls)
