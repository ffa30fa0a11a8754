"""Conditioners say what is told, what "not told" is, and refuse a batch without it."""

import jax
import numpy as np
import pytest

from vdm_jax import conditioning
from vdm_jax.conditioners import conditioner


def test_labels_are_ids_and_their_null_is_the_row_after_the_last():
  cond, null = conditioner.Labels(10)({"label": np.array([3, 0, 9], np.int32)})
  np.testing.assert_array_equal(cond.vectors["label"], [3, 0, 9])
  np.testing.assert_array_equal(null.vectors["label"], [10, 10, 10])
  assert cond.vectors["label"].dtype == np.int32
  swapped = conditioning.swap(cond, null, ("label",))
  np.testing.assert_array_equal(swapped.vectors["label"], [10, 10, 10])


def test_labels_work_on_traced_batches():
  read = jax.jit(lambda batch: conditioner.Labels(4)(batch)[1].vectors["label"])
  np.testing.assert_array_equal(read({"label": np.array([1, 2])}), [4, 4])


def test_unconditional_tells_nothing():
  cond, null = conditioner.Unconditional()({"video": np.zeros(1)})
  assert conditioning.signal_names(cond) == conditioning.signal_names(null) == []


def test_a_batch_without_labels_is_refused_and_says_what_there_is():
  with pytest.raises(KeyError, match="no 'label'.*caption.*video"):
    conditioner.Labels(10)({"video": 0, "caption": 0})


@pytest.mark.parametrize(
  "label, message",
  [
    (np.array([0, 11]), "from 0 to 11; num_classes=10 allows 0 to 9"),
    (np.array([-1]), "from -1 to -1"),
    (np.array([0.5]), r"float64\[1\].*integer"),
    (np.array([[1]]), r"int64\[1, 1\]"),
  ],
)
def test_labels_that_are_no_ids_are_refused(label, message):
  with pytest.raises(ValueError, match=message):
    conditioner.Labels(10)({"label": label})


def test_no_classes_is_not_a_number_of_classes():
  with pytest.raises(ValueError, match=r"Unconditional\(\)"):
    conditioner.Labels(0)


VALUES = np.arange(12.0, dtype=np.float32).reshape(2, 3, 2) + 1
TEXT = {"text": VALUES, "text_mask": np.array([[1, 1, 0], [1, 1, 1]])}


def test_texts_are_tokens_and_no_text_is_nothing_to_look_at():
  cond, null = conditioner.Text()(TEXT)
  text, nothing = cond.tokens["text"], null.tokens["text"]
  np.testing.assert_array_equal(text.values, VALUES)
  np.testing.assert_array_equal(text.mask, [[1, 1, 0], [1, 1, 1]])
  assert text.mask.dtype == bool
  np.testing.assert_array_equal(nothing.values, np.zeros((2, 3, 2)))
  assert not np.any(nothing.mask)


def test_a_null_text_has_its_own_length():
  empty = np.array([[7.0, 8.0]])  # one token, as of the empty text
  cond, null = conditioner.Text(null=empty)(TEXT)
  told = conditioning.swap(cond, null, ("text",)).tokens["text"]
  np.testing.assert_array_equal(told.values[1], [[7, 8], [0, 0], [0, 0]])
  np.testing.assert_array_equal(told.mask, [[True, False, False]] * 2)


def test_texts_are_dropped_values_and_mask_together():
  cond, null = conditioner.Text(null=np.array([[70.0, 80.0]]))(TEXT)
  drop = jax.jit(lambda key: conditioning.drop(key, cond, null, {"text": 0.5}))
  keys = jax.random.split(jax.random.key(0), 20)
  texts = [drop(key).tokens["text"] for key in keys]
  gone = np.array([text.values[:, 0, 0] == 70 for text in texts])
  masks = np.array([text.mask for text in texts])
  assert 5 < gone.sum() < 35
  np.testing.assert_array_equal(masks[gone], [[True, False, False]] * gone.sum())


@pytest.mark.parametrize(
  "form, wanted, nothing",
  [
    ("flat", [[1, 2, 3, 4, 0, 0], [7, 8, 9, 10, 11, 12]], np.zeros((2, 6))),
    ("mean", [[2, 3], [9, 10]], np.zeros((2, 2))),
  ],
)
def test_a_text_is_pooled_over_what_counts(form, wanted, nothing):
  cond, null = jax.jit(conditioner.Text(form=form))(TEXT)
  np.testing.assert_allclose(cond.vectors["text"], wanted)
  np.testing.assert_array_equal(null.vectors["text"], nothing)
  assert not cond.tokens


def test_labels_and_texts_are_told_together():
  both = conditioner.All((conditioner.Labels(4), conditioner.Text()))
  cond, null = both(TEXT | {"label": np.array([1, 2])})
  assert conditioning.signal_names(cond) == ["label", "text"]
  swapped = conditioning.swap(cond, null, ("label",))
  np.testing.assert_array_equal(swapped.vectors["label"], [4, 4])
  np.testing.assert_array_equal(swapped.tokens["text"].values, VALUES)
  assert conditioning.signal_names(conditioner.All(())({})[0]) == []


def test_one_signal_from_two_conditioners_is_refused():
  twice = conditioner.All((conditioner.Text(), conditioner.Text(form="mean")))
  with pytest.raises(ValueError, match=r"Two conditioners make \['text'\]"):
    twice(TEXT)


@pytest.mark.parametrize(
  "fields, batch, message",
  [
    (dict(form="pooled"), TEXT, "form='pooled'.*tokens.*flat.*mean"),
    ({}, TEXT | {"text": VALUES[0]}, r"\(3, 2\).*\[B, L, D\]"),
    ({}, TEXT | {"text_mask": np.ones((2, 4))}, r"text_mask'\] \(2, 4\)"),
    (dict(null=np.zeros((1, 5))), TEXT, r"null has shape \(1, 5\).*\[M, 2\]"),
    (dict(null=np.zeros((4, 2))), TEXT, "M at most 3"),
  ],
)
def test_texts_that_do_not_fit_are_refused(fields, batch, message):
  with pytest.raises(ValueError, match=message):
    conditioner.Text(**fields)(batch)
  with pytest.raises(KeyError, match="no 'text_mask'"):
    conditioner.Text()({"text": VALUES})


def test_a_label_may_be_a_text_of_one_word():
  cond, null = conditioner.LabelTokens(3)({"label": np.array([0, 2])})
  values = np.asarray(cond.tokens["text"].values)
  np.testing.assert_array_equal(values[:, 0], [[1, 0, 0, 0], [0, 0, 1, 0]])
  assert cond.tokens["text"].mask.all()
  np.testing.assert_array_equal(null.tokens["text"].values[:, 0], [[0, 0, 0, 1]] * 2)


def test_numbers_are_told_as_they_are_or_by_their_defaults():
  told = conditioner.Numbers(("fps", "motion"), {"motion": 127.0})
  cond, null = told({"fps": np.array([6.0, 24.0])})
  np.testing.assert_array_equal(cond.vectors["fps"], [6.0, 24.0])
  np.testing.assert_array_equal(cond.vectors["motion"], [127.0, 127.0])
  assert not null.vectors
  with pytest.raises(KeyError, match="no 'fps'"):
    told({"label": np.zeros(2)})
  with pytest.raises(ValueError, match="it must be \\[B\\]"):
    told({"fps": np.zeros((2, 1))})


def test_an_image_is_one_signal_in_two_groups():
  image, latents = np.ones((2, 6)), np.full((2, 4, 4, 3), 2.0)
  both = conditioner.Image()
  cond, null = both({"image": image, "image_latents": latents})
  assert cond.tokens["image"].values.shape == (2, 1, 6)
  assert cond.channels["image"].shape == (2, 1, 4, 4, 3)
  empty = conditioning.swap(cond, null, ("image",))
  assert not np.any(empty.tokens["image"].values)
  assert not np.any(empty.channels["image"])
  clip = np.arange(2 * 3 * 4 * 4 * 3.0).reshape(2, 3, 4, 4, 3)
  first = conditioner.Image("channels", from_first_frame=True)
  for given, wanted in (
    ({"latents": clip}, clip[:, :1]),
    ({"latents": clip, "image_latents": 4.0 * clip[:, :1]}, 4.0 * clip[:, :1]),
  ):
    cond, null = first(given)
    np.testing.assert_array_equal(cond.channels["image"], wanted)
    assert not np.any(null.channels["image"])
  with pytest.raises(ValueError, match="must be \\[B, 1, h, w, c\\]"):
    both({"image": image, "image_latents": clip})
  with pytest.raises(ValueError, match="choose both, tokens or channels"):
    conditioner.Image("latents")


def test_the_first_frames_latents_are_tokens_where_there_are_none():
  latents = np.random.default_rng(0).normal(size=(2, 3, 4, 5, 6)).astype(np.float32)
  picture = conditioner.Image("tokens", from_first_frame=True)
  cond, null = picture({"latents": latents})
  assert not cond.channels
  wanted = latents[:, 0].reshape(2, 20, 6)  # row by row
  np.testing.assert_array_equal(cond.tokens["image"].values, wanted)
  assert cond.tokens["image"].mask.all() and cond.tokens["image"].mask.shape == (2, 20)
  np.testing.assert_array_equal(null.tokens["image"].values, np.zeros_like(wanted))
  given = picture({"latents": latents, "image": np.ones((2, 7))})[0].tokens["image"]
  np.testing.assert_array_equal(given.values, np.ones((2, 1, 7)))
  with pytest.raises(KeyError, match="image"):
    conditioner.Image("tokens")({"latents": latents})


def test_a_small_video_lies_on_the_grid_of_the_latents():
  """Folded where it has more pixels, repeated where it has fewer."""
  low = np.arange(2 * 3 * 4 * 6, dtype=np.uint8).reshape(2, 3, 4, 6, 1)
  cond, null = conditioner.LowResolution((2, 3))({"low": low})
  folded = np.asarray(cond.channels["low"])
  assert folded.shape == (2, 3, 2, 3, 4)
  corner = low[1, 2, 2:4, 4:6, 0].ravel() / 127.5 - 1.0  # of one place
  np.testing.assert_allclose(folded[1, 2, 1, 2], corner, atol=1e-6)
  np.testing.assert_array_equal(null.channels["low"], folded)
  cond, _ = conditioner.LowResolution((8, 6))({"low": low})
  repeated = np.asarray(cond.channels["low"])
  assert repeated.shape == (2, 3, 8, 6, 1)
  np.testing.assert_array_equal(repeated[:, :, ::2], repeated[:, :, 1::2])
  np.testing.assert_allclose(repeated[:, :, ::2], low / 127.5 - 1.0, atol=1e-6)
  for grid in ((3, 3), (4, 4)):
    with pytest.raises(ValueError, match="4 x 6 pixels does not lie on a grid"):
      conditioner.LowResolution(grid)({"low": low})
  with pytest.raises(ValueError, match=r"\[B, T, h, w, C\]"):
    conditioner.LowResolution((2, 3))({"low": low[0]})
  with pytest.raises(KeyError, match="no 'low'"):
    conditioner.LowResolution((2, 3))({})


def test_a_batch_may_say_what_stands_for_no_text():
  rng = np.random.default_rng(0)
  batch = {
    name: rng.standard_normal((2, 3, 4)).astype(np.float32)
    for name in ("text", "negative")
  }
  batch |= {"text_mask": np.ones((2, 3), bool), "negative_mask": np.eye(2, 3) > 0}
  cond, null = conditioner.Text()(batch)
  for told, name in ((cond, "text"), (null, "negative")):
    np.testing.assert_array_equal(told.tokens["text"].values, batch[name])
    np.testing.assert_array_equal(told.tokens["text"].mask, batch[f"{name}_mask"])
  with pytest.raises(ValueError, match=r"batch\['negative'\] has shape \(2, 2, 4\)"):
    conditioner.Text()(batch | {"negative": batch["negative"][:, :2]})
  with pytest.raises(KeyError, match="no 'negative_mask'"):
    conditioner.Text()({k: v for k, v in batch.items() if k != "negative_mask"})
