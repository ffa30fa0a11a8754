"""Small folders of published pipelines, inputs, and what ours and theirs make of them.

tests/parity/record_pipelines.py calls diffusers with the inputs; `errors` calls ours.
"""

import functools

import jax
import numpy as np

import vdm_jax
from tests.support import golden_files
from tests.support.published import folder, recorded

STEPS, GUIDANCE, FRAMES, WIDTH = 4, 7.5, 3, 12
BOUND = 1e-3  # of a trajectory, times max|ref|
PROMPT, NEGATIVE = "the bird Birds", "a bird"
LATTE_PROMPT = "A dog in the SNOW "
LABELS = {"0": "tench, Tinca tinca", "7": "cock"}
CAPTIONS = ("", "a bird", "the bird", "the sea")
PICTURES = ((300, 500), (40, 31))  # larger than what CLIP sees, and smaller
MOTION_BUCKET, FPS, AUGMENTATION = 100, 7, 0.02
PIXELS = ((224, 224), (100, 333), (225, 20))

TEXTS = (
  "a seven drifting down and to the left",
  "the digit 3 flies upwards",
  "an eight",
)
LENGTH = 14


# Each folder is opened once, or its sampler would be compiled again.
load = functools.lru_cache(vdm_jax.load)


def normal(seed, *shape):
  return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def noise():
  """[1, T, h, w, 4], the initial latents of unit variance."""
  return normal(0, 1, FRAMES, 8, 12, 4)


def embeddings():
  """(prompt, negative), [1, L, D] each."""
  return normal(1, 1, 5, WIDTH), normal(2, 1, 5, WIDTH)


def picture(height, width):
  """[H, W, 3] uint8, darker above."""
  x = np.random.default_rng(5).integers(0, 256, (height, width, 3), np.uint8)
  x[: height // 2] //= 3
  return x


def image_noise():
  """[1, H, W, 3] of unit variance, that SVD adds to the picture."""
  return normal(6, 1, 16, 24, 3)


def posterior_noise():
  """[1, 1, h, w, 4] of unit variance, by which I2VGen-XL draws a picture's latents."""
  return normal(7, 1, 1, 8, 12, 4)


def read(name):
  """{name: output} of golden/pipelines/<name>.npz."""
  meta, arrays = golden_files.read(f"pipelines/{name}")
  dense = lambda key: recorded.dense(arrays[f"out_{key}"], *meta["outputs"][key])
  return {key: dense(key) for key in meta["outputs"]}


def write(name, path):
  """Writes the folder of golden/pipelines/<name>.npz to `path`, and returns it."""
  meta, arrays = golden_files.read(f"pipelines/{name}")
  folder.write(meta["folder"], arrays, path)
  return path


def text_latents(ours, noise, text, negative, steps=STEPS, **more):
  """Our latents of embeddings, guided."""
  both = dict(embeddings=(text, None), negative_embeddings=(negative, None))
  batch = ours.encode(size=(16, 24), **both)
  key = jax.random.key(0)
  call = dict(steps=steps, guidance=GUIDANCE, **more)
  return np.asarray(ours.sample_latents(batch, noise, key, **call))


def _embedded(ours, steps, num_frames=FRAMES):
  """("latents", ours, with another negative text) of embeddings."""
  text, negative = embeddings()
  latents = noise()[:, :num_frames]
  of = lambda negative: text_latents(ours, latents, text, negative, steps)
  return "latents", lambda: (of(negative), of(text))


def _of_embeddings(name, own, folder, steps, num_frames=FRAMES):
  ours = load(folder(name))
  assert ours.num_frames == own
  yield _embedded(ours, steps, num_frames)


def _motion(folder, steps):
  """Two downloads: the image model, whose scheduler is not ours to open, and motion."""
  yield _embedded(load(folder("images"), motion=folder("motion")), steps)


def _latte(folder, steps):
  ours = load(folder("latte"))
  assert ours.num_frames == FRAMES
  yield _embedded(ours, steps)
  text, negative = embeddings()
  draw = lambda ours, negative: ours(
    embeddings=(text, None),
    negative_embeddings=(negative, None),
    latents=noise(),
    steps=steps,
    guidance=GUIDANCE,
    key=jax.random.key(0),
  )
  yield "frames", lambda: (draw(ours, negative), draw(ours, text))
  temporal = lambda: load(folder("latte"), autoencoder="vae_temporal_decoder")
  yield (
    "frames_temporal",
    lambda: (draw(temporal(), negative), draw(ours, negative)),
  )


def _dit(folder, steps):
  ours = load(folder("dit"))
  latents = np.moveaxis(normal(3, 2, 4, 8, 8), 1, -1)[:, None]
  call = dict(latents=latents, steps=steps, guidance=GUIDANCE, key=jax.random.key(0))
  draw = lambda *labels: ours(labels, **call)
  yield "frames", lambda: (draw("Tinca tinca", 7), draw(7, 0))


def _animatediff(folder, steps):
  """Letters keep their case, padding is read, frames are decoded."""
  ours = load(folder("animatediff"))
  yield _embedded(ours, steps)
  call = dict(latents=noise(), steps=steps, guidance=GUIDANCE, key=jax.random.key(0))
  draw = lambda prompt: ours([prompt], negative=NEGATIVE, **call)
  yield "frames", lambda: (draw(PROMPT), draw("the sea"))


def _svd(folder, steps):
  """CLIP's token, the latent of the noised picture, three numbers, rising guidance."""
  ours, key = load(folder("svd")), jax.random.key(0)
  call = dict(steps=steps, guidance=(1.0, 3.0))

  def latents(image, motion):
    batch = ours.encode(
      [image],
      size=(16, 24),
      fps=FPS,
      motion=motion,
      augmentation=AUGMENTATION,
      noise=image_noise(),
    )
    return np.asarray(ours.sample_latents(batch, noise(), key, **call))

  for size in PICTURES:
    image = picture(*size)
    of = lambda motion, image=image: latents(image, motion)
    yield f"latents_{size[0]}", lambda of=of: (of(MOTION_BUCKET), of(2 * MOTION_BUCKET))
  call |= dict(motion=MOTION_BUCKET, height=16, width=24, key=key)
  call |= dict(latents=noise(), noise=image_noise())
  whole, parts = (ours([image], decode_chunk=chunk, **call) for chunk in (None, 2))
  yield "frames_3", lambda: (whole, parts)
  yield "frames_2", lambda: (parts, whole)


def _i2vgen(folder, steps):
  """Pictures are cut to the video's shape; later frames have a ramp for channels."""
  ours, key = load(folder("i2vgen")), jax.random.key(0)

  def latents(image, fps):
    batch = ours.encode(
      [PROMPT],
      [image],
      size=(16, 24),
      latent_frames=FRAMES,
      negative=NEGATIVE,
      fps=fps,
      noise=posterior_noise(),
    )
    call = dict(steps=steps, guidance=GUIDANCE)
    return np.asarray(ours.sample_latents(batch, noise(), key, **call))

  for size in PICTURES:
    image = picture(*size)
    of = lambda fps, image=image: latents(image, fps)
    yield f"latents_{size[0]}", lambda of=of: (of(FPS), of(4 * FPS))


OURS = dict(
  latte=_latte,
  text_to_video=functools.partial(_of_embeddings, "text_to_video", 16),
  stable_diffusion=functools.partial(
    _of_embeddings, "stable_diffusion", 1, num_frames=1
  ),
  motion=_motion,
  animatediff=_animatediff,
  dit=_dit,
  svd=_svd,
  i2vgen=_i2vgen,
)


def check(name, folder, theirs, steps):
  """Asserts that ours makes all latents and frames among `theirs`.

  Errors are in units of the bound: BOUND times max|ref| for latents, for frames one
  level of 255. The control is what ours makes of another input.

  Args:
    name: of a pipeline, a key of OURS.
    folder: function of a name that gives its path.
    theirs: {key: output}, where NaN is not compared.
    steps: number of steps with which `theirs` were made.

  Returns:
    [(key, error, error of the control)].
  """
  out = []
  with jax.default_matmul_precision("highest"):
    for key, draw in OURS[name](folder, steps):
      if key in theirs:
        error, control = (_difference(x, theirs[key]) for x in draw())
        assert error <= 1 and control > (10 if "latents" in key else 1), (key, out)
        out.append((key, error, control))
  kinds = lambda key: key.startswith(("latents", "frames"))
  assert {key for key, *_ in out} == set(filter(kinds, theirs))
  return out


def _difference(x, theirs):
  known = ~np.isnan(theirs)
  assert x.shape == theirs.shape
  if x.dtype == np.uint8:
    assert x.std() > 5
    return float(np.abs(x.astype(float) - np.rint(theirs))[known].max())
  return float(np.abs(x - theirs)[known].max() / np.abs(theirs[known]).max() / BOUND)
