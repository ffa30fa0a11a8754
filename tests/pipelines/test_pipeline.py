"""A model of texts and pictures, as one pipeline: encoded, guided by both, decoded."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from tests.support import drawn
from vdm_jax import keys
from vdm_jax.autoencoders import kl_image
from vdm_jax.conditioners import conditioner
from vdm_jax.diffusion import guidance
from vdm_jax.models.unet import architectures, i2vgen, unet3d
from vdm_jax.pipelines import inputs, load, pipeline
from vdm_jax.pretrained.schedulers import schedulers
from vdm_jax.tasks import latent_diffusion

pytestmark = pytest.mark.usefixtures("unoptimized")

WIDTH, FRAMES = 8, 2
PICTURE = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
OTHER = 255 - PICTURE
KEY = jax.random.key(0)
DDIM = dict(
  _class_name="DDIMScheduler",
  num_train_timesteps=1000,
  beta_schedule="scaled_linear",
  beta_start=0.00085,
  beta_end=0.012,
  clip_sample=False,
)


def embed(texts):
  """A text encoder: three tokens whose values follow from the letters."""
  count = lambda text: sum(map(ord, text)) / 1000
  values = [
    [[np.sin(count(t) * (i + d)) for d in range(WIDTH)] for i in range(3)]
    for t in texts
  ]
  return np.array(values, np.float32), np.ones((len(texts), 3), bool)


def embed_images(pictures):
  """An image encoder: one token, of the mean colours."""
  means = np.stack([x.mean((0, 1)) / 255 for x in pictures])
  return np.tile(means, 3)[:, None, :WIDTH].astype(np.float32)


@pytest.fixture(scope="module")
def model():
  """I2VGen-XL's kind, small: text and image tokens, and latents of the first frame."""
  autoencoder = kl_image.KLImage(channels=(4, 4), groups=2, layers_per_block=1)
  video = np.zeros((1, 1, 16, 24, 3), np.float32)
  decoder = drawn.like(jax.eval_shape(autoencoder.init, KEY, video))
  decoder["latents"] = {"shift": np.zeros(4), "scale": np.ones(4)}
  network = i2vgen.I2VGenXL(
    architectures.modelscope(
      channels=(8,), layers=1, attention=(True,), groups=4, head_dim=4, vectors=("fps",)
    )
  )
  made = (
    inputs.PromptInput(embed),
    inputs.FirstFrameInput(embed_images, autoencoder, decoder, ("fps",), fps_offset=0),
  )
  scheduler = schedulers.load_scheduler(DDIM)
  task = latent_diffusion.LatentDiffusion(
    network=network,
    process=scheduler.process,
    prediction=scheduler.prediction,
    conditioner=conditioner.All(tuple(x.conditioner for x in made)),
  )
  batch = {
    "text": np.zeros((1, 3, WIDTH), np.float32),
    "text_mask": np.ones((1, 3), bool),
    "image": np.zeros((1, 1, WIDTH), np.float32),
    "image_latents": np.zeros((1, 1, 8, 12, 4), np.float32),
    "fps": np.zeros(1),
    "latents": np.zeros((1, FRAMES, 8, 12, 4), np.float32),
  }
  params = drawn.like(jax.eval_shape(task.init, KEY, batch), seed=2)
  components = pipeline.Components(task, params, scheduler, autoencoder, decoder)
  return pipeline.Pipeline(
    components, made, ("text", "image"), size=(16, 24), num_frames=FRAMES, steps=2
  )


def test_text_and_picture_both_lead_and_guidance_leaves_out_both(model):
  noise = np.random.default_rng(3).standard_normal((2, FRAMES, 8, 12, 4))
  encode = functools.partial(model.encode, size=(16, 24), key=KEY)
  batch = encode(["a dog", "a cat"], [PICTURE, OTHER], negative="blurred", fps=12)
  assert batch["fps"].tolist() == [12, 12]
  draw = lambda batch: np.asarray(model.sample_latents(batch, noise, KEY, guidance=3.0))
  out = draw(batch)
  for changed in (
    encode(["a fox", "a cat"], [PICTURE, OTHER], negative="blurred", fps=12),
    encode(["a dog", "a cat"], [OTHER, OTHER], negative="blurred", fps=12),
    encode(["a dog", "a cat"], [PICTURE, OTHER], negative=["", "blurred"], fps=12),
  ):
    other = draw(changed)
    assert np.abs(other[0] - out[0]).max() > 1e-3  # its text, picture or negative is
    np.testing.assert_allclose(other[1], out[1], atol=1e-4)  # and of the other's not

  # The same sampler around a guided denoiser, by hand.
  parts = model.components
  expected = jax.jit(
    lambda params, batch, noise: parts.task.sample(
      params,
      batch,
      noise.shape,
      KEY,
      sampler=parts.scheduler.sampler,
      ts=parts.scheduler.time_grid(2),
      wrappers=(
        functools.partial(guidance.guide, drop=(("text", "image"),), scales=(3.0,)),
        *parts.scheduler.wrappers,
      ),
      noise=parts.scheduler.initial_noise_fn(
        parts.scheduler.time_grid(2), lambda *_: noise
      ),
    )
  )(parts.params, batch, jnp.asarray(noise, jnp.float32))
  np.testing.assert_allclose(out, expected, atol=1e-5)


def test_pictures_are_read_as_clips_are(tmp_path):
  """Turned upright; more than 8 bits a channel are refused, not cut to 255."""
  image, exif = Image.fromarray(PICTURE), Image.Exif()
  exif[0x0112] = 6  # a quarter turn clockwise
  image.save(tmp_path / "a.png", exif=exif)
  Image.fromarray(np.full((4, 4), 40_000, np.uint16)).save(tmp_path / "deep.png")
  (read,) = inputs._opened([tmp_path / "a.png"])
  np.testing.assert_array_equal(read, np.rot90(PICTURE, -1))
  with pytest.raises(ValueError, match="deep.png has I;16 pixels; wanted 8 bits"):
    inputs._opened([tmp_path / "deep.png"])


def test_padding_is_masked_or_read_as_in_diffusers():
  """LattePipeline cuts a negative prompt to its prompt, and reads its padding."""

  def encode(texts):
    values = np.stack([np.full((5, 2), len(text), np.float32) for text in texts])
    return values, np.arange(5) < np.array([[len(text)] for text in texts])

  prompts = functools.partial(inputs.PromptInput(encode).encode, None, ["abc", "a"])
  masked = prompts(negative="ab")
  assert masked["text_mask"].sum(1).tolist() == [3, 1]
  assert masked["negative_mask"].sum(1).tolist() == [2, 2]
  theirs = prompts(negative="ab", padding="diffusers")
  assert theirs["text"].shape == theirs["negative"].shape == (2, 3, 2)
  assert theirs["text_mask"].tolist() == theirs["negative_mask"].tolist()
  assert theirs["negative_mask"].sum(1).tolist() == [3, 1]
  assert (theirs["negative"] == 2).all() and theirs["text"][0].max() == 3
  with pytest.raises(ValueError, match="padding='read'; choose"):
    prompts(padding="read")


def test_it_makes_videos_and_says_what_is_missing(model):
  call = functools.partial(model, key=KEY, guidance=3.0)
  texts, pictures = ["a dog", "a cat"], [PICTURE, OTHER]
  video = call(texts, pictures)
  assert video.shape == (2, FRAMES, 16, 24, 3) and video.dtype == np.uint8
  assert video.std() > 5
  np.testing.assert_array_equal(call(pictures=pictures, prompts=texts), video)
  swapped = functools.partial(call, texts[::-1], pictures[::-1])
  turned = swapped(key=keys.per_video(KEY, [1, 0])).astype(int)
  assert np.abs(turned[::-1] - video).max() <= 1  # each video's noise is its own
  assert np.abs(swapped()[::-1].astype(int) - video).max() > 20
  with pytest.raises(ValueError, match="no picture"):
    call(["a dog"])
  with pytest.raises(ValueError, match=r"'prompts': 1, 'pictures': 2.*for every video"):
    call(["a dog"], pictures)
  with pytest.raises(TypeError, match="pictures is one path, 'dog.jpg'"):
    call(["a dog"], "dog.jpg")
  with pytest.raises(ValueError, match="prompts is empty"):
    call([], [PICTURE])
  with pytest.raises(ValueError, match="3 negative prompts for 2 prompts"):
    call(texts, pictures, negative=["blurred"] * 3)
  with pytest.raises(TypeError, match="mottion: no such argument"):
    call(["a dog"], [PICTURE], mottion=3)
  with pytest.raises(ValueError, match="decode_chunk=2: a KLImage .* leave .* out"):
    call(["a dog"], [PICTURE], decode_chunk=2)
  with pytest.raises(ValueError, match="height=17 must be a multiple of 2"):
    call(["a dog"], [PICTURE], height=17)


def test_the_batch_of_a_pipeline_is_one_that_trains(model):
  """Its conditioner and entries are those of training: a loss comes of them."""
  batch = model.encode(["a dog"] * 2, [PICTURE] * 2, size=(16, 24), key=KEY)
  batch["latents"] = np.ones((2, FRAMES, 8, 12, 4), np.float32)
  parts = model.components
  loss = jax.eval_shape(parts.task.loss, parts.params, batch, KEY)[0]
  assert loss.shape == ()


def test_a_network_without_a_number_of_frames_asks_for_it(model):
  """U-Nets have none of their own, where no published config names one."""
  network = unet3d.UNet3D(architectures.stable_diffusion())
  assert load._num_frames({}, network) is None
  assert load._num_frames({"num_frames": 14}, network) == 14
  silent = pipeline.Pipeline(model.components, model.inputs, model.drop, model.size)
  with pytest.raises(ValueError, match="num_frames is needed"):
    silent(["a dog"], [PICTURE], key=KEY)


def test_frames_are_counted_in_frames_of_video():
  """Two frames a latent: num_frames=8 are four latent frames, 7 is refused."""
  frames = pipeline._divided("num_frames", 8, 2, 2)
  assert frames == 4
  with pytest.raises(ValueError, match="num_frames=7 must be a multiple of 2.*6 and 8"):
    pipeline._divided("num_frames", 7, 2, 2)
