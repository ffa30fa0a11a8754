"""Published pipelines, whole: what diffusers' were recorded to make of the same inputs.

tests/golden/pipelines: folders, and outputs of four steps; see support/published.
"""

import json
import shutil

import jax
import numpy as np
import pytest

import vdm_jax
from tests.support import suite
from tests.support.published import pipelines as recorded
from tests.support.refusals import refused
from vdm_jax.encoders import clip_pixels

pytestmark = pytest.mark.usefixtures("unoptimized")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """name -> the recorded folder, written once."""
  place, made = tmp_path_factory.mktemp("published"), {}

  def write(name):
    """Of "images": Stable Diffusion's with a scheduler that is not ours to open."""
    if name not in made:
      source = name.replace("images", "stable_diffusion")
      made[name] = recorded.write(source, place / name)
      for file in made[name].glob("**/*.json") if name == "images" else ():
        file.write_text(file.read_text().replace("DDIMScheduler", "PNDMScheduler"))
    return made[name]

  return write


# The others' networks are rows of tests/pretrained/test_published.py; AnimateDiff is
# "motion" too, and its texts are read as those of I2VGen-XL.
QUICK = ("latte", "motion", "dit", "svd", "i2vgen")


@pytest.mark.parametrize("name", suite.choose(recorded.OURS, *QUICK))
def test_it_makes_what_its_original_made(name, folder):
  assert recorded.check(name, folder, recorded.read(name), recorded.STEPS)


def test_latte_reads_texts_as_its_original(folder):
  theirs = recorded.read("latte")["embedding"]
  values, mask = recorded.load(folder("latte")).embed([recorded.LATTE_PROMPT])
  count = int(mask.sum())
  assert theirs.shape[1] == count > 2  # they cut the text to what counts
  np.testing.assert_allclose(values[:, :count], theirs, atol=1e-4)


def test_pixels_are_those_that_their_pipeline_shows_clip():
  theirs = recorded.read("svd")
  for size in recorded.PIXELS:
    picture = recorded.picture(*size)[None]
    shown = theirs[f"pixels_{size[0]}"]
    known = ~np.isnan(shown)
    shown = (shown - clip_pixels.MEAN) / np.array(clip_pixels.DEVIATION)
    far = np.abs(clip_pixels.preprocess(picture) - shown)[known].max()
    assert far < 2e-5, size
  with pytest.raises(ValueError, match="at least 2 x 2"):
    clip_pixels.preprocess(picture[:, :1])


def test_what_is_wrong_with_a_folder_is_said(folder, tmp_path):
  with pytest.raises(FileNotFoundError, match="model_index.json"):
    vdm_jax.load(folder("latte") / "vae")
  with pytest.raises(ValueError, match="whole pipeline.*'transformer', 'vae'"):
    vdm_jax.pretrained.load(folder("latte"))
  with pytest.raises(ValueError, match="PNDM"):
    vdm_jax.load(folder("images"))
  with pytest.raises(ValueError, match="expected a MotionAdapter"):
    vdm_jax.load(folder("images"), motion=folder("images") / "vae")
  assert recorded.load(folder("stable_diffusion")).num_frames == 1
  ours = recorded.load(folder("text_to_video"))
  assert ours.num_frames == 16
  with pytest.raises(ValueError, match="no text encoder"):
    ours(["a dog"], key=jax.random.key(0))
  other = shutil.copytree(folder("latte"), tmp_path / "other")
  index = json.loads((other / "model_index.json").read_text())
  write = lambda: (other / "model_index.json").write_text(json.dumps(index))
  index["_class_name"] = "KandinskyPipeline"
  write()
  with pytest.raises(ValueError, match="KandinskyPipeline.*LattePipeline"):
    vdm_jax.load(other)
  shutil.rmtree(other / "vae")
  index["_class_name"] = "LattePipeline"
  write()
  with pytest.raises(FileNotFoundError, match="vae"):
    vdm_jax.load(other)


def test_what_does_not_fit_is_refused(folder, tmp_path):
  ours, (text, negative) = recorded.load(folder("latte")), recorded.embeddings()
  call = lambda **more: ours(
    embeddings=(np.repeat(text, 2, 0), None),
    negative_embeddings=(negative, None),
    key=jax.random.key(0),
    **more,
  )
  animatediff, svd = (recorded.load(folder(name)) for name in ("animatediff", "svd"))
  show = lambda *pictures, height=16: svd(
    list(pictures), key=jax.random.key(0), height=height, width=24
  )
  calls = {
    "height=18.*16 and 20": lambda: call(height=18),
    "for 2 videos": lambda: call(latents=recorded.noise()),
    "16 frames.*8": lambda: animatediff(["a"], key=jax.random.key(0)),
    "no picture": show,
    "float32": lambda: show(np.zeros((8, 8, 3), np.float32)),
    "height=17.*16 and 18": lambda: show(np.zeros((8, 8, 3), np.uint8), height=17),
  }
  refused(ValueError, calls)
  with pytest.raises(FileNotFoundError):
    show(tmp_path / "dog.jpg")


def test_a_prompt_does_not_depend_on_its_neighbours(folder):
  """With masked texts of unequal lengths; diffusers' own pipeline fails this."""
  ours = recorded.load(folder("latte"))
  text, negative = (recorded.normal(i, 2, 5, recorded.WIDTH) for i in (1, 2))
  noise = recorded.normal(0, 2, recorded.FRAMES, 8, 12, 4)
  mask = np.arange(5) < np.array([[2], [5]])

  def draw(i):
    both = dict(embeddings=(text[i], mask[i]), negative_embeddings=(negative[i], None))
    batch = ours.encode(size=(16, 24), **both)
    call = dict(steps=recorded.STEPS, guidance=recorded.GUIDANCE)
    with jax.default_matmul_precision("highest"):  # as above: then it is compiled
      return np.asarray(ours.sample_latents(batch, noise[i], jax.random.key(0), **call))

  two, one = draw(slice(0, 2)), draw(slice(0, 1))
  np.testing.assert_allclose(two[:1], one, atol=2e-4 * np.abs(one).max())
