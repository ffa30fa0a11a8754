"""A caption says what the clip shows, and unseen pairs are told to nobody."""

import collections

import numpy as np
import pytest

from vdm_jax.data import records, sources
from vdm_jax.worlds.moving_digits import builder as moving_digits
from vdm_jax.worlds.moving_digits import captions

COMPASS = {  # (y, x), y downwards -> sector
  (0, 1): 0,
  (-1, 1): 1,
  (-1, 0): 2,
  (-1, -1): 3,
  (0, -1): 4,
  (1, -1): 5,
  (1, 0): 6,
  (1, 1): 7,
}


@pytest.fixture(scope="module")
def clips():
  """2,000 trajectories without their videos, as a source."""
  train, _ = moving_digits.split_digits()
  rng = np.random.default_rng(0)
  config = moving_digits.MovingDigitsConfig()
  made = moving_digits.sample_trajectories(rng, train, 2000, config)
  kept = {"label": made["label"].astype(np.int32), "velocity": made["velocity"]}
  return sources.ArraySource({**kept, "mean": np.arange(2000.0)})


def write(path, texts):
  """A folder like that of programs/embed.py: text i is embedded as i."""
  with records.RecordWriter(path) as writer:
    writer.meta["texts"] = texts
    for i in range(len(texts)):
      text = np.full((2, 3), i, np.float16)
      writer.write({"text": text, "text_mask": np.ones(2, bool)})
  return path


def test_a_direction_is_as_one_sees_it():
  velocities = np.array(list(COMPASS), float)
  assert captions.direction_index(velocities).tolist() == list(COMPASS.values())
  assert captions.direction_index(0.01 * velocities[3]) == 3  # however slow
  for angle, sector in ((22.4, 0), (22.6, 1), (-22.4, 0), (-22.6, 7), (180, 4)):
    angle = np.radians(angle)
    assert captions.direction_index(np.array([-np.sin(angle), np.cos(angle)])) == sector


def test_words_agree_with_the_direction():
  for (y, x), sector in COMPASS.items():
    for text in captions.DIRECTIONS[sector]:
      assert ("up" in text) == (y < 0)
      assert ("down" in text or "lower" in text) == (y > 0)
      assert ("right" in text) == (x > 0) or text == "straight up" or "straight" in text
      assert ("left" in text) == (x < 0)


def test_no_caption_is_of_two_pairs():
  said = [*range(10), None], [*range(8), None]
  pairs = [(d, way) for d in said[0] for way in said[1]]
  owners = collections.Counter(t for pair in pairs for t in captions.wordings(*pair))
  assert set(owners.values()) == {1}
  assert min(len(captions.wordings(*pair)) for pair in pairs) >= 40
  assert "a seven drifting down and to the left" in captions.wordings(7, 5)
  assert "an eight flies up" in captions.wordings(8, 2)


def test_a_clip_has_one_caption_that_is_true_of_it(clips):
  vague = collections.Counter()
  for i in range(len(clips)):
    digit, way = captions.digit_and_direction(clips[i])
    text = captions.caption(clips[i])
    assert text == captions.caption(dict(clips[i]))
    kinds = [(digit, way), (None, way), (digit, None)]
    (kind,) = [k for k, said in enumerate(kinds) if text in captions.wordings(*said)]
    vague[kind] += 1
  assert abs(vague[1] / len(clips) - 1 / 8) < 0.03
  assert abs(vague[2] / len(clips) - 1 / 8) < 0.03


def test_each_digit_lacks_one_direction_and_each_direction_a_digit():
  assert [digit for digit, _ in captions.UNSEEN] == list(range(10))
  assert {way for _, way in captions.UNSEEN} == set(range(8))


def test_unseen_pairs_are_in_no_caption_and_in_no_clip(clips, tmp_path):
  texts = captions.seen_captions(clips)
  assert texts == sorted(set(texts))
  for pair in captions.UNSEEN:
    assert not set(captions.wordings(*pair)) & set(texts)
  said = captions.captioned_clips(clips, write(tmp_path / "texts", texts))
  pairs = {captions.digit_and_direction(said[i]) for i in range(len(said))}
  assert len(pairs) == 70 and not pairs & set(captions.UNSEEN)
  assert 0 < len(clips) - len(said) < 0.2 * len(clips)
  # Negative control: all of them, if none is held back.
  whole = captions.seen_captions(clips, unseen_pairs=())
  assert set(captions.wordings(*captions.UNSEEN[0])) & set(whole)
  everything = write(tmp_path / "all", whole)
  assert len(captions.captioned_clips(clips, everything, ())) == 2000


def test_a_clip_comes_with_its_own_embedding(clips, tmp_path):
  texts = captions.seen_captions(clips)
  said = captions.captioned_clips(clips, write(tmp_path / "texts", texts))
  for i in (0, 7, len(said) - 1):
    record = said[i]
    original = clips[int(record["mean"])]
    assert set(record) == {"label", "velocity", "mean", "text", "text_mask"}
    assert texts[int(record["text"][0, 0])] == captions.caption(original)
    assert record["text"].shape == (2, 3) and record["text_mask"].all()


def test_a_folder_without_a_caption_is_refused(clips, tmp_path):
  texts = captions.seen_captions(clips)
  missing = captions.caption(
    captions.captioned_clips(clips, write(tmp_path / "whole", texts))[0]
  )
  less = write(tmp_path / "less", [t for t in texts if t != missing])
  with pytest.raises(ValueError, match="lacks .* run both stages again"):
    captions.captioned_clips(clips, less)


def test_all_pairs_are_asked_for_in_several_wordings():
  wants = captions.prompts(5)
  assert len(wants) == 400
  assert collections.Counter((w["digit"], w["direction"]) for w in wants) == {
    (digit, way): 5 for digit in range(10) for way in range(8)
  }
  assert all(w["text"] in captions.wordings(w["digit"], w["direction"]) for w in wants)
  assert len({w["text"] for w in wants}) == 400
  groups = collections.Counter(map(captions.seen_or_unseen, wants))
  assert groups == {"seen pairs": 350, "unseen pairs": 50}
  vague = captions.prompts(25, pairs=[(None, 3), (7, None)])
  assert all(w["text"] in captions.wordings(w["digit"], w["direction"]) for w in vague)
  assert {captions.seen_or_unseen(w) for w in vague} == {"seen pairs"}
  twice = captions.repeat_prompts([{"text": "a"}, {"text": "b"}], 2)
  assert [w["text"] for w in twice] == ["a", "a", "b", "b"]


def test_real_clips_are_what_their_pair_says(clips):
  part = {k: v[:20] for k, v in clips.arrays.items()}
  source = sources.ArraySource({**part, "video": np.arange(20)})
  videos, wants = captions.videos_and_prompts(source)
  assert videos.tolist() == list(range(20))
  found = [(w["digit"], w["direction"]) for w in wants]
  assert found == [captions.digit_and_direction(source[i]) for i in range(20)]
