"""Conditioners say what is told, what "not told" is, and refuse a batch without it."""

import jax
import numpy as np
import pytest

from vdm_jax import conditioning
from vdm_jax.encoders import conditioner


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
  assert conditioning.names(cond) == conditioning.names(null) == []


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
