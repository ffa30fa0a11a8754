"""Sky Timelapse: clouds in motion, from the original's folders of frames.

The data set of https://arxiv.org/abs/1709.07592 as its authors lay it out:

  <root>/sky_train/<video>/<video>_<k>/<video>_frames_00000001.jpg ...
  <root>/sky_test/...

35,383 train and 2,815 test clips of 32 frames, 640 x 360. The JPEG bytes are stored
untouched, so nothing is lost and any TFDS user can read them. Two versions circulate
(the original and one of 256 x 256), and the same samples score a very different FVD
against each: `version_name` keeps them apart.
"""

import contextlib
import dataclasses
import io
import pathlib

import tensorflow_datasets as tfds
from PIL import Image

from vdm_jax.data import folders, report

SPLITS = {"train": "sky_train", "test": "sky_test"}
JPEG_END = b"\xff\xd9"
SOURCE = "source.txt"  # next to the data: the root it was built from
SKIPPED = "skipped.jsonl"


@dataclasses.dataclass(kw_only=True)
class SkyTimelapseConfig(tfds.core.BuilderConfig):
  """The version of the data set, and the clips that were found of it.

  Attributes:
    root: the folder that holds sky_train and sky_test.
    min_frames: clips with fewer frames are left out.
    found: {split: [(folder of a clip, names of its frames)]}.
    skipped: [(path, reason)] of what was left out.
  """

  root: str = ""
  min_frames: int = 16
  found: dict = dataclasses.field(default_factory=dict)
  skipped: list = dataclasses.field(default_factory=list)


class SkyTimelapse(tfds.core.GeneratorBasedBuilder):
  """The TFDS builder of Sky Timelapse, which `build` makes from a folder of frames.

  Records are {"video": JPEG frames of [T, H, W, 3], "clip": the clip's folder, a str}.
  """

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES = {"1.0.0": "First release."}

  def _info(self):
    return tfds.core.DatasetInfo(
      builder=self,
      description=__doc__,
      features=tfds.features.FeaturesDict(
        {
          "video": tfds.features.Sequence(
            tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg")
          ),
          "clip": tfds.features.Text(),
        }
      ),
      homepage="https://sites.google.com/site/whluoimperial/mdgan",
      citation=CITATION,
    )

  def _split_generators(self, dl_manager):
    del dl_manager  # the frames are the user's own copy
    found = self.builder_config.found
    return {split: self._generate_examples(split) for split in found}

  def _generate_examples(self, split):
    config = self.builder_config
    count = 0
    for folder, names in config.found[split]:
      try:
        frames = [_jpeg(folder / name) for name in names]
      except ValueError as error:
        config.skipped.append((folder, str(error)))
        continue
      count += 1
      name = str(folder.relative_to(pathlib.Path(config.root)))
      yield name, {"video": frames, "clip": name}
    if not count:
      raise ValueError(
        f"{config.root}/{SPLITS[split]}: none of its {len(config.found[split])} clips "
        f"can be used: {report.format_first_reasons(config.skipped)}."
      )


def build(data_dir, root, *, version_name="original", min_frames=16):
  """The TFDS builder of the data set, which is built under `data_dir` if it is not yet.

  Folders that are empty or hold fewer than `min_frames` frames, stray files and clips
  with an unreadable frame are left out and named in skipped.jsonl next to the data.

  Args:
    data_dir: the folder of TFDS data sets.
    root: the folder that holds sky_train and sky_test (or one of them).
    version_name: which version of the frames this is; part of the folder's name.
    min_frames: frames that a clip must have.

  Raises:
    FileNotFoundError: neither split is there.
    ValueError: a split has no usable clip, or the data set in `data_dir` was built from
      another root.
  """
  root = pathlib.Path(root)
  config = SkyTimelapseConfig(
    name=f"{version_name}-min{min_frames}", root=str(root), min_frames=min_frames
  )
  builder = SkyTimelapse(data_dir=data_dir, config=config, file_format="array_record")
  source = pathlib.Path(builder.data_dir) / SOURCE
  if builder.info.splits:
    built_from = source.read_text() if source.is_file() else str(root.resolve())
    if built_from != str(root.resolve()) and pathlib.Path(built_from).is_dir():
      raise ValueError(
        f"{builder.data_dir} was built from {built_from}, not {root}; give another "
        "version_name or data_dir."
      )
    return builder
  _find(root, config)
  tfds.disable_progress_bar()
  with contextlib.redirect_stdout(io.StringIO()):  # tfds talks about downloads
    builder.download_and_prepare()
  skips = report.SkipReport(source.with_name(SKIPPED))
  for path, reason in config.skipped:
    skips.add(path, reason)
  source.write_text(str(root.resolve()))
  return builder


def _find(root, config):
  """Lists the clips of each split that is there, into the config."""
  present = {s: root / name for s, name in SPLITS.items() if (root / name).is_dir()}
  if not present:
    raise FileNotFoundError(
      f"{root} holds none of {sorted(SPLITS.values())}; give the folder that does."
    )
  for split, folder in present.items():
    found = folders.iterate_frame_folders(folder, config.skipped, config.min_frames)
    clips = list(found)
    if not clips:
      raise ValueError(
        f"{folder} holds no clip of {config.min_frames} frames; skipped: "
        f"{report.format_first_reasons(config.skipped)}."
      )
    config.found[split] = clips


def _jpeg(path):
  """The bytes of a JPEG file, after a look at both of its ends; errors name it."""
  data = path.read_bytes()
  try:
    with Image.open(io.BytesIO(data)) as image:
      kind = (image.format, image.mode)
  except (OSError, SyntaxError, ValueError) as error:
    raise ValueError(f"{path.name} is no picture ({len(data)} bytes)") from error
  if kind != ("JPEG", "RGB"):
    raise ValueError(f"{path.name} is {kind[0]} {kind[1]}; wanted JPEG RGB")
  if JPEG_END not in data[-64:]:
    raise ValueError(f"{path.name} is torn: its last bytes are no end of a JPEG")
  return data


CITATION = """\
@inproceedings{xiong2018learning,
  author = {Xiong, Wei and Luo, Wenhan and Ma, Lin and Liu, Wei and Luo, Jiebo},
  title = {Learning to Generate Time-Lapse Videos Using Multi-Stage Dynamic Generative
           Adversarial Networks},
  booktitle = {CVPR},
  year = {2018},
}
"""
