"""Conditioners read signals and their nulls, and refuse a batch without them."""

import jax
import numpy as np
import pytest

from vdm_jax import conditioning
from vdm_jax.conditioners import conditioner


def read(make, batch):
  """(cond, null) of a conditioner, compiled."""
  return jax.tree.map(np.asarray, jax.jit(lambda batch: make(batch))(batch))


def test_labels_are_ids_and_their_null_is_the_row_after_the_last():
  cond, null = conditioner.Labels(10)({"label": np.array([3, 0, 9], np.int32)})
  np.testing.assert_array_equal(cond.vectors["label"], [3, 0, 9])
  np.testing.assert_array_equal(null.vectors["label"], [10, 10, 10])
  assert cond.vectors["label"].dtype == np.int32
  swapped = conditioning.swap(cond, null, ("label",))
  np.testing.assert_array_equal(swapped.vectors["label"], [10, 10, 10])


def test_labels_work_on_traced_batches():
  _, null = read(conditioner.Labels(4), {"label": np.array([1, 2])})
  np.testing.assert_array_equal(null.vectors["label"], [4, 4])


def test_unconditional_has_no_signals():
  cond, null = conditioner.Unconditional()({"video": np.zeros(1)})
  assert conditioning.signal_names(cond) == conditioning.signal_names(null) == []


VALUES = np.arange(12.0, dtype=np.float32).reshape(2, 3, 2) + 1
TEXT = {"text": VALUES, "text_mask": np.array([[1, 1, 0], [1, 1, 1]])}


def test_texts_are_tokens_and_no_text_is_nothing_to_look_at():
  cond, null = read(conditioner.Text(), TEXT)
  text, nothing = cond.tokens["text"], null.tokens["text"]
  np.testing.assert_array_equal(text.values, VALUES)
  np.testing.assert_array_equal(text.mask, [[1, 1, 0], [1, 1, 1]])
  assert text.mask.dtype == bool
  np.testing.assert_array_equal(nothing.values, np.zeros((2, 3, 2)))
  assert not np.any(nothing.mask)


def test_a_null_text_has_its_own_length():
  # One token, as of the empty text.
  cond, null = conditioner.Text(null=np.array([[7.0, 8.0]]))(TEXT)
  empty = conditioning.swap(cond, null, ("text",)).tokens["text"]
  np.testing.assert_array_equal(empty.values[1], [[7, 8], [0, 0], [0, 0]])
  np.testing.assert_array_equal(empty.mask, [[True, False, False]] * 2)


def test_texts_are_dropped_values_and_mask_together():
  cond, null = conditioner.Text(null=np.array([[70.0, 80.0]]))(TEXT)
  drop = lambda key: conditioning.drop(key, cond, null, {"text": 0.5}).tokens["text"]
  texts = jax.jit(jax.vmap(drop))(jax.random.split(jax.random.key(0), 20))
  gone, masks = np.asarray(texts.values)[:, :, 0, 0] == 70, np.asarray(texts.mask)
  assert 5 < gone.sum() < 35
  np.testing.assert_array_equal(masks[gone], [[True, False, False]] * gone.sum())


def test_a_text_is_pooled_over_what_counts():
  for form, expected, nothing in (
    ("flat", [[1, 2, 3, 4, 0, 0], [7, 8, 9, 10, 11, 12]], np.zeros((2, 6))),
    ("mean", [[2, 3], [9, 10]], np.zeros((2, 2))),
  ):
    cond, null = read(conditioner.Text(form=form), TEXT)
    np.testing.assert_allclose(cond.vectors["text"], expected)
    np.testing.assert_array_equal(null.vectors["text"], nothing)
    assert not cond.tokens


def test_labels_and_texts_are_signals_together():
  both = conditioner.All((conditioner.Labels(4), conditioner.Text()))
  cond, null = both(TEXT | {"label": np.array([1, 2])})
  assert conditioning.signal_names(cond) == ["label", "text"]
  swapped = conditioning.swap(cond, null, ("label",))
  np.testing.assert_array_equal(swapped.vectors["label"], [4, 4])
  np.testing.assert_array_equal(swapped.tokens["text"].values, VALUES)
  assert conditioning.signal_names(conditioner.All(())({})[0]) == []


def test_a_label_may_be_a_text_of_one_word():
  cond, null = read(conditioner.LabelTokens(3), {"label": np.array([0, 2])})
  values = np.asarray(cond.tokens["text"].values)
  np.testing.assert_array_equal(values[:, 0], [[1, 0, 0, 0], [0, 0, 1, 0]])
  assert cond.tokens["text"].mask.all()
  np.testing.assert_array_equal(null.tokens["text"].values[:, 0], [[0, 0, 0, 1]] * 2)


def test_numbers_are_read_as_they_are_or_by_their_defaults():
  numbers = conditioner.Numbers(("fps", "motion"), {"motion": 127.0})
  cond, null = read(numbers, {"fps": np.array([6.0, 24.0])})
  np.testing.assert_array_equal(cond.vectors["fps"], [6.0, 24.0])
  np.testing.assert_array_equal(cond.vectors["motion"], [127.0, 127.0])
  assert not null.vectors


def test_an_image_is_one_signal_in_two_groups():
  image, latents = np.ones((2, 6)), np.full((2, 4, 4, 3), 2.0)
  both = conditioner.Image()
  cond, null = read(both, {"image": image, "image_latents": latents})
  assert cond.tokens["image"].values.shape == (2, 1, 6)
  assert cond.channels["image"].shape == (2, 1, 4, 4, 3)
  empty = conditioning.swap(cond, null, ("image",))
  assert not np.any(empty.tokens["image"].values)
  assert not np.any(empty.channels["image"])
  clip = np.arange(2 * 3 * 4 * 4 * 3.0).reshape(2, 3, 4, 4, 3)
  first = conditioner.Image("channels", from_first_frame=True)
  for given, expected in (
    ({"latents": clip}, clip[:, :1]),
    ({"latents": clip, "image_latents": 4.0 * clip[:, :1]}, 4.0 * clip[:, :1]),
  ):
    cond, null = read(first, given)
    np.testing.assert_array_equal(cond.channels["image"], expected)
    assert not np.any(null.channels["image"])


def test_the_first_frames_latents_are_tokens_where_there_are_none():
  latents = np.random.default_rng(0).normal(size=(2, 3, 4, 5, 6)).astype(np.float32)
  picture = conditioner.Image("tokens", from_first_frame=True)
  cond, null = read(picture, {"latents": latents})
  assert not cond.channels
  expected = latents[:, 0].reshape(2, 20, 6)  # row by row
  np.testing.assert_array_equal(cond.tokens["image"].values, expected)
  assert cond.tokens["image"].mask.all() and cond.tokens["image"].mask.shape == (2, 20)
  np.testing.assert_array_equal(null.tokens["image"].values, np.zeros_like(expected))
  given = picture({"latents": latents, "image": np.ones((2, 7))})[0].tokens["image"]
  np.testing.assert_array_equal(given.values, np.ones((2, 1, 7)))


def test_a_small_video_lies_on_the_grid_of_the_latents():
  """Folded where it has more pixels, repeated where it has fewer."""
  low = np.arange(2 * 3 * 4 * 6, dtype=np.uint8).reshape(2, 3, 4, 6, 1)
  cond, null = read(conditioner.LowResolution((2, 3)), {"low": low})
  folded = np.asarray(cond.channels["low"])
  assert folded.shape == (2, 3, 2, 3, 4)
  corner = low[1, 2, 2:4, 4:6, 0].ravel() / 127.5 - 1.0  # of one place
  np.testing.assert_allclose(folded[1, 2, 1, 2], corner, atol=1e-6)
  np.testing.assert_array_equal(null.channels["low"], folded)
  cond, _ = read(conditioner.LowResolution((8, 6)), {"low": low})
  repeated = np.asarray(cond.channels["low"])
  assert repeated.shape == (2, 3, 8, 6, 1)
  np.testing.assert_array_equal(repeated[:, :, ::2], repeated[:, :, 1::2])
  np.testing.assert_allclose(repeated[:, :, ::2], low / 127.5 - 1.0, atol=1e-6)


def test_a_batch_may_say_what_stands_for_no_text():
  rng = np.random.default_rng(0)
  batch = {
    name: rng.standard_normal((2, 3, 4)).astype(np.float32)
    for name in ("text", "negative")
  }
  batch |= {"text_mask": np.ones((2, 3), bool), "negative_mask": np.eye(2, 3) > 0}
  cond, null = read(conditioner.Text(), batch)
  for signals, name in ((cond, "text"), (null, "negative")):
    np.testing.assert_array_equal(signals.tokens["text"].values, batch[name])
    np.testing.assert_array_equal(signals.tokens["text"].mask, batch[f"{name}_mask"])


LOW = np.zeros((2, 3, 4, 6, 1), np.uint8)
PICTURE = {"image": np.ones((2, 6)), "image_latents": np.zeros((2, 3, 4, 4, 3))}
text, labels, numbers = conditioner.Text, conditioner.Labels, conditioner.Numbers
image, low = conditioner.Image, conditioner.LowResolution
ONE, TWO = np.zeros((1, 5)), np.zeros((4, 2))


MISSING = [
  (lambda: labels(10), {"video": 0, "caption": 0}, "no 'label'.*caption.*video"),
  (text, {"text": VALUES}, "no 'text_mask'"),
  (text, TEXT | {"negative": VALUES}, "no 'negative_mask'"),
  (lambda: numbers(("fps",)), {"label": np.zeros(2)}, "no 'fps'"),
  (lambda: image("tokens"), {"latents": LOW}, "image"),
  (lambda: low((2, 3)), {}, "no 'low'"),
]
WRONG = [
  (lambda: labels(10), {"label": np.array([0, 11])}, "from 0 to 11;.*allows 0 to 9"),
  (lambda: labels(10), {"label": np.array([-1])}, "from -1 to -1"),
  (lambda: labels(10), {"label": np.array([0.5])}, r"float64\[1\].*integer"),
  (lambda: labels(10), {"label": np.array([[1]])}, r"int64\[1, 1\]"),
  (lambda: labels(0), {}, r"Unconditional\(\)"),
  (lambda: text(form="pooled"), TEXT, "form='pooled'.*tokens.*flat.*mean"),
  (text, TEXT | {"text": VALUES[0]}, r"\(3, 2\).*\[B, L, D\]"),
  (text, TEXT | {"text_mask": np.ones((2, 4))}, r"text_mask'\] \(2, 4\)"),
  (lambda: text(null=ONE), TEXT, r"null has shape \(1, 5\).*\[M, 2\]"),
  (lambda: text(null=TWO), TEXT, "M at most 3"),
  (
    text,
    TEXT | {"negative": VALUES[:, :2], "negative_mask": np.ones((2, 3))},
    r"batch\['negative'\] has shape \(2, 2, 2\)",
  ),
  (
    lambda: conditioner.All((text(), text(form="mean"))),
    TEXT,
    r"Two conditioners make \['text'\]",
  ),
  (lambda: numbers(("fps",)), {"fps": np.zeros((2, 1))}, r"it must be \[B\]"),
  (image, PICTURE, r"must be \[B, 1, h, w, c\]"),
  (lambda: image("latents"), PICTURE, "choose both, tokens or channels"),
  (lambda: low((3, 3)), {"low": LOW}, "4 x 6 pixels does not lie on a grid"),
  (lambda: low((4, 4)), {"low": LOW}, "4 x 6 pixels does not lie on a grid"),
  (lambda: low((2, 3)), {"low": LOW[0]}, r"\[B, T, h, w, C\]"),
]


def test_batches_that_do_not_fit_are_refused():
  for error, rows in ((KeyError, MISSING), (ValueError, WRONG)):
    for make, batch, message in rows:
      with pytest.raises(error, match=message):
        make()(batch)
