"""Sources of other people's data sets, and what wraps a source."""

import io
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from vdm_jax.data import decode, sources, transforms
from vdm_jax.worlds.moving_digits import builder as moving_digits


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
  place = tmp_path_factory.mktemp("tfds")
  return moving_digits.build(place, train_clips=20, test_clips=6)


def test_a_tfds_split_gives_records_without_tensorflow(digits):
  source = sources.Tfds(digits, "train")
  assert len(source) == 20
  record = source[3]
  assert record["video"].shape == (8, 16, 16, 3) and record["video"].dtype == np.uint8
  assert record["label"].dtype == np.int32 and record["label"].shape == ()
  assert sorted(record) == ["label", "video"]
  assert source.classes == [str(i) for i in range(10)]
  assert "tensorflow" not in sys.modules


def test_a_tfds_folder_and_a_slice_of_a_split(digits):
  whole = sources.Tfds(digits, "train")
  part = sources.Tfds(digits.data_dir, "train[50%:]", keys=("video", "position"))
  assert len(part) == 10
  assert np.array_equal(part[2]["video"], whole[12]["video"])
  assert part[2]["position"].shape == (8, 2)


def test_what_is_not_there_is_named(digits, tmp_path):
  with pytest.raises(FileNotFoundError, match="no prepared TFDS data set"):
    sources.Tfds(tmp_path, "train")
  with pytest.raises(KeyError, match="no .'caption'.; it has .*video"):
    sources.Tfds(digits, "train", keys=("video", "caption"))
  with pytest.raises(ValueError, match="valid"):
    sources.Tfds(digits, "valid")
  absent = moving_digits.MovingDigits(data_dir=tmp_path, file_format="array_record")
  with pytest.raises(FileNotFoundError, match="moving_digits is not built"):
    sources.Tfds(absent, "train")


class Pictures(tfds.core.GeneratorBasedBuilder):
  """Two clips of three PNG frames, the second torn."""

  VERSION = tfds.core.Version("1.0.0")

  def _info(self):
    image = tfds.features.Image(shape=(None, None, 3), encoding_format="png")
    return tfds.core.DatasetInfo(
      builder=self,
      disable_shuffling=True,
      features=tfds.features.FeaturesDict({"video": tfds.features.Sequence(image)}),
    )

  def _split_generators(self, dl_manager):
    return {"train": self._generate_examples()}

  def _generate_examples(self):
    frames = []
    for i in range(3):
      buffer = io.BytesIO()
      Image.fromarray(np.full((6, 8, 3), i * 50, np.uint8)).save(buffer, "png")
      frames.append(buffer.getvalue())
    yield 0, {"video": frames}
    yield 1, {"video": [frames[0], frames[1][:40], frames[2]]}


def test_sequences_of_pictures_are_decoded_by_us(tmp_path):
  builder = Pictures(data_dir=tmp_path, file_format="array_record")
  builder.download_and_prepare()
  source = sources.Tfds(builder, "train", keys=("video",))
  video = source[0]["video"]
  assert video.shape == (3, 6, 8, 3) and video[:, 0, 0, 0].tolist() == [0, 50, 100]
  with pytest.raises(decode.BadClipError, match=r"pictures/train\[1\] video, frame 1"):
    source[1]
  held = sources.in_memory(source)
  assert len(held) == 1 and "frame 1" in held.skipped[0][0]


def test_arrays_want_one_number_of_records():
  arrays = {"video": np.arange(6).reshape(3, 2), "label": np.arange(3)}
  source = sources.ArraySource(arrays)
  assert len(source) == 3 and source[1]["video"].tolist() == [2, 3]
  with pytest.raises(ValueError, match="'video': 3, 'label': 2"):
    sources.ArraySource({"video": np.zeros((3, 2)), "label": np.zeros(2)})


def test_in_memory_holds_the_same_records(digits):
  source = sources.Tfds(digits, "test")
  held = sources.in_memory(source)
  assert len(held) == 6 and held.classes == source.classes
  for i in range(6):
    assert np.array_equal(held[i]["video"], source[i]["video"])
    assert held[i]["label"] == source[i]["label"]


def test_a_subset_is_that_part(digits):
  source = sources.Tfds(digits, "train")
  part = sources.Subset(source, 5, 8)
  assert len(part) == 3 and part.classes == source.classes
  assert np.array_equal(part[1]["video"], source[6]["video"])
  assert sources.record_name(part, 1) == "moving_digits/train[6]"
  with pytest.raises(ValueError, match="there are none"):
    sources.Subset(source, 20)
  with pytest.raises(IndexError):
    part[3]


def test_a_transformed_source_is_the_same_at_every_reading():
  source = sources.ArraySource({"video": np.arange(4)})
  noise = lambda record, rng: {"video": record["video"] + rng.random()}
  double = lambda record, rng: {"video": 2 * record["video"]}
  changed = sources.Transformed(source, (noise, double), seed=1)
  assert len(changed) == 4
  first = [changed[i]["video"] for i in range(4)]
  assert first == [changed[i]["video"] for i in range(4)]
  assert all(2 * i <= x < 2 * (i + 1) for i, x in enumerate(first))
  other = sources.Transformed(source, (noise, double), seed=2)
  assert other[0]["video"] != first[0]


def test_a_transformed_source_draws_again_what_cannot_be_read():
  class Torn(sources.ArraySource):
    def load(self, i, rng):
      if rng.integers(4) == 3:
        raise decode.BadClipError("clip", "is torn")
      return self[i]

  changed = sources.Transformed(Torn({"video": np.arange(40)}), ())
  assert [changed[i]["video"] for i in range(40)] == list(range(40))


def test_a_repeated_source_gives_other_windows_each_time():
  video = np.arange(40, dtype=np.uint8)[None, :, None, None, None].repeat(2, 0)
  clips = sources.ArraySource({"video": video, "label": np.array([3, 4])})
  cut = (transforms.SampleFrames(num_frames=4),)
  windows = sources.Transformed(sources.Repeated(clips, 5), cut)
  assert len(windows) == 10
  assert [int(windows[i]["label"]) for i in range(10)] == [3, 4] * 5
  starts = {int(windows[i]["video"][0, 0, 0, 0]) for i in range(0, 10, 2)}
  assert len(starts) > 2
  assert windows.name(3) == windows.name(1) == "ArraySource[1]"
  with pytest.raises(ValueError, match="times=0"):
    sources.Repeated(clips, 0)
