"""Numbers carry their protocol, and refuse to be compared with others'."""

import dataclasses
import json

import pytest

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
