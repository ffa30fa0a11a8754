"""Published pipelines, whole: what diffusers' were recorded to make of the same inputs.

tests/golden/pipelines: folders, and outputs of four steps; see support/published.
"""

import json
import shutil

import jax
import numpy as np
import pytest

import vdm_jax
from tests.support.published import pipelines as recorded
from vdm_jax.encoders import clip_pixels

CALL = dict(key=jax.random.key(0), steps=recorded.STEPS)
TEXT = dict(guidance=recorded.GUIDANCE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """name -> the recorded folder, written once."""
  place, made = tmp_path_factory.mktemp("published"), {}

  def write(name):
    if name not in made:
      made[name] = recorded.write(name, place / name)
    return made[name]

  return write


@pytest.fixture(autouse=True)
def exact():
  with jax.default_matmul_precision("highest"):
    yield


def text_latents(ours, noise, text, negative):
  """Latents of embeddings."""
  given = dict(embeddings=(text, None), negative_embeddings=(negative, None))
  batch = ours.encode(size=(16, 24), **given)
  return np.asarray(ours.sample_latents(batch, noise, **CALL, **TEXT))


def image_latents(ours, picture, motion):
  """Latents of a picture, with guidance that rises over the frames."""
  batch = ours.encode(
    [picture],
    size=(16, 24),
    fps=recorded.FPS,
    motion=motion,
    augmentation=recorded.AUGMENTATION,
    noise=recorded.image_noise(),
  )
  noise = recorded.noise()
  return np.asarray(ours.sample_latents(batch, noise, **CALL, guidance=(1.0, 3.0)))


def check(out, theirs, other):
  """`out` is theirs, and what came of another input is not."""
  known = ~np.isnan(theirs)
  assert out.shape == theirs.shape == other.shape
  far = lambda x: np.abs(x - theirs)[known].max() / np.abs(theirs[known]).max()
  assert far(out) < recorded.BOUND < 10 * recorded.BOUND < far(other)


def levels(out, theirs):
  """The largest difference of frames, in levels of 255."""
  known = ~np.isnan(theirs)
  assert out.shape == theirs.shape and out.std() > 5
  return np.abs(out.astype(float) - np.rint(theirs))[known].max()


@pytest.mark.parametrize("name", ["latte", "text_to_video", "stable_diffusion"])
def test_latents_of_embeddings_are_the_originals(name, folder):
  ours, theirs = vdm_jax.load(folder(name)), recorded.read(name)["latents"]
  noise = recorded.noise()[:, : theirs.shape[1]]  # Stable Diffusion's are one frame
  text, negative = recorded.embeddings()
  other = text_latents(ours, noise, text, text)
  check(text_latents(ours, noise, text, negative), theirs, other)
  assert ours.num_frames == {"latte": 3, "stable_diffusion": 1}.get(name, 16)


def test_latte_gives_the_frames_and_reads_the_texts_of_its_original(folder):
  ours, theirs = vdm_jax.load(folder("latte")), recorded.read("latte")
  text, negative = recorded.embeddings()
  video = ours(
    embeddings=(text, None),
    negative_embeddings=(negative, None),
    latents=recorded.noise(),
    **CALL,
    **TEXT,
  )
  assert video.dtype == np.uint8 and levels(video, theirs["frames"]) <= 1
  values, mask = ours.embed([recorded.LATTE_PROMPT])
  count = int(mask.sum())
  assert theirs["embedding"].shape[1] == count > 2  # they cut the text to what counts
  np.testing.assert_allclose(values[:, :count], theirs["embedding"], atol=1e-4)


def test_dit_gives_the_pictures_of_its_original(folder):
  ours, theirs = vdm_jax.load(folder("dit")), recorded.read("dit")["frames"]
  noise = np.moveaxis(recorded.normal(3, 2, 4, 8, 8), 1, -1)[:, None]
  call = lambda *labels: ours(labels, latents=noise, **CALL, **TEXT)
  assert levels(call("Tinca tinca", 7), theirs) <= 1
  assert levels(call(7, 0), theirs) > 1


def test_animatediff_makes_of_a_prompt_what_its_original_does(folder):
  """Letters keep their case, padding is read, frames are decoded."""
  ours, theirs = vdm_jax.load(folder("animatediff")), recorded.read("animatediff")
  call = lambda prompt: ours(
    [prompt], negative=recorded.NEGATIVE, latents=recorded.noise(), **CALL, **TEXT
  )
  assert levels(call(recorded.PROMPT), theirs["frames"]) <= 1
  assert levels(call("the sea"), theirs["frames"]) > 1
  with pytest.raises(ValueError, match="16 frames.*8"):
    ours(["a"], key=jax.random.key(0))


def test_a_motion_adapter_makes_animatediff_of_stable_diffusion(folder, tmp_path):
  """Two downloads: the image model, whose scheduler is not ours to open, and motion."""
  images = shutil.copytree(folder("stable_diffusion"), tmp_path / "images")
  for path in ("model_index.json", "scheduler/scheduler_config.json"):
    text = (images / path).read_text()
    (images / path).write_text(text.replace("DDIMScheduler", "PNDMScheduler"))
  with pytest.raises(ValueError, match="PNDM"):
    vdm_jax.load(images)
  with pytest.raises(ValueError, match="expected a MotionAdapter"):
    vdm_jax.load(images, motion=images / "vae")
  ours = vdm_jax.load(images, motion=folder("motion"))
  noise, (text, negative) = recorded.noise(), recorded.embeddings()
  other = text_latents(ours, noise, text, text)
  theirs = recorded.read("motion")["latents"]
  check(text_latents(ours, noise, text, negative), theirs, other)


def test_svd_makes_of_a_picture_what_its_original_does(folder):
  """CLIP's token, the latent of the noised picture, three numbers, rising guidance."""
  ours, theirs = vdm_jax.load(folder("svd")), recorded.read("svd")
  for size in recorded.PICTURES:
    picture = recorded.picture(*size)
    out, other = (image_latents(ours, picture, motion) for motion in (100, 200))
    check(out, theirs[f"latents_{size[0]}"], other)
  settings = dict(motion=recorded.MOTION_BUCKET, height=16, width=24)
  settings |= dict(steps=recorded.STEPS, guidance=(1.0, 3.0))
  given = dict(latents=recorded.noise(), noise=recorded.image_noise())
  whole, parts = (
    ours([picture], key=jax.random.key(0), decode_chunk=chunk, **settings, **given)
    for chunk in (None, 2)
  )
  assert whole.shape == (1, recorded.FRAMES, 16, 24, 3)
  assert levels(whole, theirs["frames_3"]) <= 1 < levels(whole, theirs["frames_2"])
  assert levels(parts, theirs["frames_2"]) <= 1


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
  with pytest.raises(ValueError, match="no text encoder"):
    vdm_jax.load(folder("text_to_video"))(["a dog"], key=jax.random.key(0))
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
  ours, (text, negative) = vdm_jax.load(folder("latte")), recorded.embeddings()
  call = lambda **more: ours(
    embeddings=(np.repeat(text, 2, 0), None),
    negative_embeddings=(negative, None),
    key=jax.random.key(0),
    **more,
  )
  with pytest.raises(ValueError, match="height=18.*16 and 20"):
    call(height=18)
  with pytest.raises(ValueError, match="for 2 videos"):
    call(latents=recorded.noise())
  ours = vdm_jax.load(folder("svd"))
  call = lambda *pictures, **more: ours(
    list(pictures), key=jax.random.key(0), **dict(height=16, width=24) | more
  )
  with pytest.raises(ValueError, match="no picture"):
    call()
  with pytest.raises(ValueError, match="float32"):
    call(np.zeros((8, 8, 3), np.float32))
  with pytest.raises(FileNotFoundError):
    call(tmp_path / "dog.jpg")
  with pytest.raises(ValueError, match="height=17.*16 and 18"):
    call(np.zeros((8, 8, 3), np.uint8), height=17)


def test_a_prompt_does_not_depend_on_its_neighbours(folder):
  """With masked texts of unequal lengths; diffusers' own pipeline fails this."""
  ours = vdm_jax.load(folder("latte"))
  text, negative = (recorded.normal(i, 2, 5, recorded.WIDTH) for i in (1, 2))
  noise = recorded.normal(0, 2, recorded.FRAMES, 8, 12, 4)
  mask = np.arange(5) < np.array([[2], [5]])

  def draw(i):
    given = dict(embeddings=(text[i], mask[i]), negative_embeddings=(negative[i], None))
    batch = ours.encode(size=(16, 24), **given)
    return np.asarray(ours.sample_latents(batch, noise[i], **CALL, **TEXT))

  both, alone = draw(slice(0, 2)), draw(slice(0, 1))
  np.testing.assert_allclose(both[:1], alone, atol=2e-4 * np.abs(alone).max())
