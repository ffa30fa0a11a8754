"""Every system of the U-Net line learns, and only what its paper trains.

Squares that drift, drawn straight as latents, in a network of two levels.
"""

import contextlib
import dataclasses
import re
import shutil
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vdm_jax import checkpoint
from vdm_jax.conditioners import conditioner
from vdm_jax.data import loader, sources
from vdm_jax.diffusion import loss, perturbation, process, times
from vdm_jax.encoders import resampler
from vdm_jax.models import lora
from vdm_jax.models.unet import architectures, resampled, unet3d
from vdm_jax.tasks import latent_diffusion
from vdm_jax.training import loop
from vdm_jax.training import state as state_lib
from vdm_jax.training import step as step_lib

# At :tiny, tests/configs/ trains a network of each; that they learn is more work.
pytestmark = [pytest.mark.complete, pytest.mark.long]

STEPS = 40
FRAMES, SIZE, CHANNELS = 4, 8, 2
TINY = dict(
  channels=(16, 32), layers=1, attention=(True, False), groups=8, out_channels=CHANNELS
)
SD = process.DDPM("scaled_linear")
ADAPTING = dict(learning_rate=1e-2, steps=60)
TEXT = conditioner.LabelTokens(3)
FPS = conditioner.Numbers(("fps",))
AUGMENTATION = conditioner.Numbers(("augmentation",))
LOW = conditioner.All((TEXT, conditioner.LowResolution((SIZE, SIZE)), AUGMENTATION))
NUMBERS = ("fps", "motion", "augmentation")
IMAGE = conditioner.All(
  (conditioner.Image(from_first_frame=True), conditioner.Numbers(NUMBERS))
)
SPATIAL_ONLY = r"^(?!.*temporal)"


@dataclasses.dataclass(frozen=True)
class System:
  """What is trained, on what, and which of its parameters, a regex."""

  architecture: Any
  conditioner: Any = conditioner.Unconditional()
  process: Any = SD
  prediction: str = "eps"
  trainable: str = ".*"
  adapters: tuple[str, ...] = ()  # the targets of LoRAs, one around the other
  resampler: Any = None
  learning_rate: float = 3e-3
  steps: int = STEPS
  rest: dict = dataclasses.field(default_factory=dict)


MOTION = dict(
  architecture=architectures.animatediff(num_heads=2, **TINY),
  conditioner=TEXT,
  process=process.DDPM("linear", beta_ends=(0.00085, 0.012)),
)
SYSTEMS = {
  # The temporal layers of a frozen image model.
  "video_ldm": System(
    architectures.video_ldm(head_dim=8, **TINY),
    conditioner.All((TEXT, FPS)),
    prediction="v",
    trainable="temporal",
    rest=dict(mask_rates={"first": 0.3}),
  ),
  "video_ldm, upsampler": System(
    architectures.video_ldm(
      head_dim=8, **TINY | dict(vectors=("augmentation",), mask_channel=False)
    ),
    LOW,
    prediction="v",
    trainable="temporal",
    rest=dict(
      perturbation=perturbation.ImageNoiseAugmentation(mean=-2.0, std=1.0, signal="low")
    ),
  ),
  "lvdm, unconditional": System(architectures.lvdm(num_heads=2, **TINY)),
  "lvdm, text": System(architectures.lvdm_text(num_heads=2, **TINY), TEXT),
  "lvdm, long": System(
    architectures.lvdm_long(num_heads=2, **TINY),
    rest=dict(
      mask_rates={"first": 0.5, "ends": 0.4},
      perturbation=perturbation.KnownFrameNoise(),
      error_fn=loss.absolute,
    ),
  ),
  "videocrafter2, first stage": System(
    architectures.videocrafter2(head_dim=8, **TINY), conditioner.All((TEXT, FPS))
  ),
  "videocrafter2, second stage": System(
    architectures.videocrafter2(head_dim=8, one_frame="image", **TINY),
    conditioner.All((TEXT, FPS)),
    trainable=SPATIAL_ONLY,
  ),
  # A token of CLIP, of which a resampler makes 2.
  "videocrafter1, image to video": System(
    architectures.videocrafter2(head_dim=8, image_keys=True, **TINY),
    conditioner.All((TEXT, conditioner.Image("tokens"), FPS)),
    resampler=resampler.Resampler(
      depth=1, width=16, num_heads=2, head_dim=8, embedding=6, queries=2, features=4
    ),
  ),
  "svd": System(
    architectures.svd(head_dim=8, joint_frequencies=8, **TINY),
    IMAGE,
    process.EDM(t_max=700.0, sigma_data=1.0),
    "v",
  ),
  "animatediff": System(**MOTION, trainable="temporal"),
  # MagicAdapter-S, then MagicAdapter-T around it.
  "magictime, in space": System(
    **MOTION,
    trainable="^lora/",
    adapters=("/spatial_(self|cross)",),
    **ADAPTING,
  ),
  "magictime, in time": System(
    **MOTION,
    trainable="^lora/",
    adapters=("/spatial_(self|cross)", "/temporal_self"),
    **ADAPTING,
  ),
}


def batch(size=16):
  """Squares of one of three sizes that drift by a pixel a frame, and what is known."""
  rng = np.random.default_rng(0)
  clips = np.full((size, FRAMES, SIZE, SIZE, CHANNELS), -1.0, np.float32)
  label = rng.integers(0, 3, size)
  for clip, kind in zip(clips, label, strict=True):
    row, column = rng.integers(0, 3, 2)
    for i, frame in enumerate(clip):
      frame[row : row + kind + 2, column + i : column + i + kind + 2] = 1.0
  numbers = {k: np.full(size, 8.0) for k in NUMBERS}
  image = rng.standard_normal((size, 1, 6))
  low = ((clips[:, :, ::2, ::2] + 1.0) * 127.5).astype(np.uint8)
  return {"latents": clips, "label": label, "image": image, "low": low, **numbers}


def filled(shapes):
  """Parameters that are 0 in biases only: as if an image model had been there."""
  rng = np.random.default_rng(1)

  def fill(path, x):
    name = path[-1].key
    if name in ("bias", "mix_factor"):
      return jnp.zeros(x.shape)
    if name == "scale":
      return jnp.ones(x.shape)
    deviation = 0.7 / np.sqrt(np.prod(x.shape[:-1]))
    return jnp.asarray(deviation * rng.standard_normal(x.shape), jnp.float32)

  return jax.tree_util.tree_map_with_path(fill, flax.linen.unbox(shapes))


def fit(step, state, data, folder, steps):
  """The state after all steps, from where the folder's last checkpoint stands."""
  clips = sources.ArraySource(data)
  batches, key = loader.Loader(clips, len(clips), shuffle=False), jax.random.key(1)
  with contextlib.closing(checkpoint.Checkpointer(folder, keep=2)) as saved:
    restored = saved.restore_latest(state)
    if restored is not None:
      state, key = restored.state, restored.key
      batches.set_state(restored.loader_state)
    # Placed alike, new or restored: one compilation.
    state, key = jax.device_put((state, key), jax.devices()[0])
    cadence = loop.Cadence(save=steps // 2)
    options = dict(steps=steps, checkpointer=saved, cadence=cadence)
    return loop.fit(step, state, batches, key, **options)


def task_of(system):
  network = unet3d.UNet3D(system.architecture)
  if system.resampler:
    network = resampled.Resampled(network, system.resampler)
  for targets in system.adapters:
    network = lora.Lora(network=network, targets=targets, rank=16)
  exploding = isinstance(system.process, process.EDM)
  return latent_diffusion.LatentDiffusion(
    network=network,
    process=system.process,
    prediction=system.prediction,
    conditioner=system.conditioner,
    times=times.lognormal if exploding else times.uniform,
    **system.rest,
  )


@pytest.fixture(scope="module", params=SYSTEMS)
def trained(request, tmp_path_factory):
  """(system, state before, after, after a resume from half-way, losses)."""
  system = SYSTEMS[request.param]
  task = task_of(system)
  one = system.architecture.one_frame == "image"
  data = {k: x[:, :1] if k == "latents" and one else x for k, x in batch().items()}
  params = filled(jax.eval_shape(task.init, jax.random.key(0), data))
  tx = optax.adam(system.learning_rate)
  first, frozen = state_lib.split_trainable(params, system.trainable)
  zero = jnp.zeros((), jnp.int32)
  before = state_lib.State(
    step=zero,
    params=first,
    frozen=frozen,
    ema=first,
    opt_state=tx.init(first),
    skipped=zero,
    skipped_in_a_row=zero,
  )
  step, values = jax.jit(step_lib.make_step(task.loss, tx, 0.9)), []

  def recorded(state, batch, key):
    state, metrics = step(state, batch, key)
    values.append(metrics["loss"])
    return state, metrics

  folder = tmp_path_factory.mktemp("checkpoints")
  steps = system.steps
  after = fit(recorded, before, data, folder / "whole", steps)
  half = f"{steps // 2}"
  shutil.copytree(folder / "whole" / half, folder / "half" / half)
  resumed = fit(recorded, before, data, folder / "half", steps)
  assert len(values) == steps + steps // 2
  return system, before, after, resumed, [float(x) for x in values[:steps]]


def test_the_loss_falls_by_a_third(trained):
  *_, values = trained
  assert np.mean(values[-8:]) < 0.7 * np.mean(values[:3]), values


def test_what_is_frozen_keeps_its_bits_and_all_else_moves(trained):
  system, before, after, *_ = trained
  whole = lambda state: state_lib.merge_params(state.params, state.frozen)
  flat = lambda state: flax.traverse_util.flatten_dict(whole(state), sep="/")
  before, after = flat(before), flat(after)
  trained = {name for name in before if re.search(system.trainable, name)}
  moved = {k for k in before if not np.array_equal(before[k], after[k])}
  assert moved == trained and moved


def test_a_resumed_run_ends_with_the_same_bits(trained):
  _, before, after, resumed, _ = trained
  bits = lambda state: [np.asarray(x).tobytes() for x in jax.tree.leaves(state)]
  assert bits(resumed) == bits(after) != bits(before)


def test_clips_that_are_pictures_teach_nothing_along_time():
  """Stable Video Diffusion's image-only clips; videos teach all of it."""
  numbers = conditioner.Numbers((*NUMBERS, "image_only"), values={"image_only": 0.0})
  signals = conditioner.All((conditioner.Image(from_first_frame=True), numbers))
  task = task_of(dataclasses.replace(SYSTEMS["svd"], conditioner=signals))
  data = batch(2) | {"image_only": np.ones(2, np.float32)}
  params = filled(jax.eval_shape(task.init, jax.random.key(0), data))
  loss = lambda params, data: task.loss(params, data, jax.random.key(1))[0]
  gradient = jax.jit(jax.grad(loss))

  def moved(flag):
    taught = gradient(params, data | {"image_only": np.full(2, flag, np.float32)})
    flat = flax.traverse_util.flatten_dict(taught, sep="/")
    return {name for name, x in flat.items() if np.any(x)}, set(flat)

  by_pictures, names = moved(1.0)
  along_time = {name for name in names if re.search("temporal|time_mixer", name)}
  assert along_time and by_pictures == names - along_time
  assert moved(0.0)[0] == names
