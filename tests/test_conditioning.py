"""Signals are dropped and swapped by name, given frames never."""

import jax
import numpy as np
import pytest

from vdm_jax import conditioning
from vdm_jax.conditioning import Conditioning, Tokens

B, T, L = 4096, 3, 2


def ones(*shape, dtype=np.float32):
  return np.ones(shape, dtype)


def example(batch=B, extra=None):
  """Signals of ones, their nulls of zeros; "image" stands in two groups."""
  cond = Conditioning(
    tokens={
      "text": Tokens(ones(batch, L, 2), ones(batch, L, dtype=bool)),
      "image": Tokens(ones(batch, 1, 2), ones(batch, 1, dtype=bool)),
    },
    vectors={"label": ones(batch, dtype=np.int32), "fps": ones(batch, 2)},
    channels={"image": ones(batch, T, 1, 1, 1)},
    hints={"pose": ones(batch, T, 2, 2, 1)} | (extra or {}),
    known=ones(batch, T, 1, 1, 1),
    mask=ones(batch, T, 1, 1, 1, dtype=bool),
  )
  null = jax.tree.map(lambda x: np.zeros_like(x)[:1], cond)
  return cond, null


def drop(seed, cond, null, rates):
  """`conditioning.drop`, which keeps the given frames, compiled."""

  @jax.jit
  def run(key):
    out = conditioning.drop(key, cond, null, rates)
    assert out.known is cond.known and out.mask is cond.mask
    return out

  return jax.device_get(run(jax.random.key(seed)))


def kept(x):
  """[B] 1 where an example kept its signal, 0 where it lost it; never in between."""
  flat = np.asarray(x, np.float32).reshape(x.shape[0], -1)
  assert ((flat == flat[:, :1]).all()) and set(np.unique(flat)) <= {0.0, 1.0}
  return flat[:, 0]


def test_drop_hits_each_signal_at_its_own_rate_and_independently():
  cond, null = example()
  rates = {"text": 0.1, "label": 0.5, "image": 0.3, "pose": 1.0}
  out = drop(0, cond, null, rates)
  text, label = kept(out.tokens["text"].values), kept(out.vectors["label"])
  image, pose = kept(out.channels["image"]), kept(out.hints["pose"])
  sd = lambda p: 4 * np.sqrt(p * (1 - p) / B)
  assert abs(1 - text.mean() - 0.1) < sd(0.1)
  assert abs(1 - label.mean() - 0.5) < sd(0.5)
  assert abs(1 - image.mean() - 0.3) < sd(0.3)
  assert pose.sum() == 0 and kept(out.vectors["fps"]).all()
  for a, b in [(text, label), (text, image), (label, image)]:
    assert abs(np.corrcoef(a, b)[0, 1]) < 4 / np.sqrt(B)


def test_drop_treats_a_name_as_one_signal_and_keeps_given_frames():
  cond, null = example()
  out = drop(1, cond, null, {"image": 0.5, "text": 0.5})
  image, text = out.tokens["image"], out.tokens["text"]
  np.testing.assert_array_equal(kept(out.channels["image"]), kept(image.values))
  np.testing.assert_array_equal(kept(text.mask), kept(text.values))
  assert out.vectors["label"].dtype == np.int32


def test_the_coin_of_a_signal_does_not_depend_on_the_others():
  cond, null = example(64)
  more, more_null = example(64, {"depth": ones(64, T, 2, 2, 1)})
  plain = drop(2, cond, null, {"label": 0.5})
  among_more = drop(2, more, more_null, {"depth": 0.9, "label": 0.5, "text": 0.2})
  np.testing.assert_array_equal(plain.vectors["label"], among_more.vectors["label"])
  other = drop(3, cond, null, {"label": 0.5})
  assert (plain.vectors["label"] != other.vectors["label"]).any()


def test_swap_takes_the_named_signals_only():
  cond, null = example(5)

  @jax.jit
  def swap():
    out = conditioning.swap(cond, null, ("image", "label"))
    assert out.known is cond.known
    return out

  out = swap()
  assert jax.tree.map(np.shape, out) == jax.tree.map(np.shape, cond)
  assert not kept(out.channels["image"]).any()
  assert not kept(out.tokens["image"].values).any()
  assert not kept(out.vectors["label"]).any()
  assert kept(out.tokens["text"].values).all() and kept(out.hints["pose"]).all()


def test_unknown_names_are_refused_with_those_that_exist():
  cond, null = example(2)
  with pytest.raises(KeyError, match=r"lable.*there are.*label"):
    conditioning.swap(cond, null, ("lable",))
  with pytest.raises(KeyError, match=r"lable.*there are.*label"):
    conditioning.drop(jax.random.key(0), cond, null, {"lable": 0.1})
  with pytest.raises(KeyError, match="no null value"):
    conditioning.swap(cond, null.replace(hints={}), ("pose",))
  with pytest.raises(ValueError, match="between 0 and 1"):
    conditioning.drop(jax.random.key(0), cond, null, {"label": 10})


def test_take_gathers_what_has_frames():
  clip = np.arange(6.0).reshape(1, 6, 1, 1, 1) * ones(2, 1, 1, 1, 1)
  cond = Conditioning(
    vectors={"label": np.zeros(2, np.int32)},
    channels={"first_frame": clip[:, :1], "low_res": clip},
    hints={"pose": clip},
    known=clip,
    mask=clip > 2,
    positions=np.arange(10, 16) * ones(2, 1),
  )
  take = jax.jit(conditioning.take_frames)
  cut = jax.device_get(take(cond, np.array([0, 4, 3])))
  for x in (cut.channels["low_res"], cut.hints["pose"], cut.known):
    np.testing.assert_array_equal(x[0, :, 0, 0, 0], [0, 4, 3])
  np.testing.assert_array_equal(cut.mask[1, :, 0, 0, 0], [False, True, True])
  assert cut.channels["first_frame"].shape[1] == 1
  assert cut.vectors["label"].shape == (2,)
  np.testing.assert_array_equal(cut.positions[1], [10, 14, 13])
