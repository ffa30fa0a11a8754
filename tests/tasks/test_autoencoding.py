"""Training an autoencoder: one loss, two players, and what each of them sees."""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from einops import rearrange

from vdm_jax.autoencoders import base, discriminator, kl_image
from vdm_jax.metrics import frames
from vdm_jax.tasks import autoencoding
from vdm_jax.training import optimizer

key = jax.random.key(0)


class Judge(nn.Module):
  """The least discriminator: of each pixel."""

  @nn.compact
  def __call__(self, video):
    return nn.Dense(1)(nn.silu(nn.Dense(8)(video)))


@dataclasses.dataclass(frozen=True)
class Linear:
  """The least autoencoder: a matrix for each 2 x 2 square, either way."""

  latent_channels: int = 4

  def init(self, key, video):
    del video
    noise = lambda i, *shape: np.cos(
      1.7 * i + np.arange(math.prod(shape)), dtype=np.float32
    )
    shapes = {"encoder": (12, 2 * self.latent_channels)}
    shapes |= {"decoder": (self.latent_channels, 12)}
    params = {k: noise(i, *s).reshape(s) / 3 for i, (k, s) in enumerate(shapes.items())}
    return {**params, "latents": base.identity_statistics(self.latent_channels)}

  def encode(self, params, video):
    x = rearrange(video, "b t (h p) (w q) c -> b t h w (p q c)", p=2, q=2)
    return base.Moments(*jnp.split(x @ params["encoder"], 2, axis=-1))

  def latents(self, params, moments, key):
    return base.normalize(params["latents"], base.sample_from_moments(moments, key))

  def decode(self, params, latents):
    x = base.denormalize(params["latents"], latents) @ params["decoder"]
    return rearrange(x, "b t h w (p q c) -> b t (h p) (w q) c", p=2, q=2)


def squares(seed, clips, frames=2, size=16):
  """uint8 videos of a bright square that moves on black, [B, T, size, size, 3]."""
  rng = np.random.default_rng(seed)
  video = np.zeros((clips, frames, size, size, 3), np.uint8)
  for clip in video:
    y, x, dy, dx = rng.integers((0, 0, 0, 0), (size - 6, size - 6, 3, 3))
    color = rng.integers(100, 256, 3)
    for t, frame in enumerate(clip):
      frame[y + t * dy : y + t * dy + 5, x + t * dx : x + t * dx + 5] = color
  return video


@pytest.fixture(scope="module")
def game():
  """The task with a GAN from step 10, and its loss with gradients, compiled once."""
  task = autoencoding.Autoencoding(
    autoencoder=Linear(), gan_weight=0.5, gan_start=10, discriminator=Judge()
  )
  batch = {"video": squares(0, 2), "step": np.int32(10)}
  params = nn.unbox(jax.jit(task.init)(key, batch))
  loss = jax.jit(jax.value_and_grad(task.loss, has_aux=True))
  return task, params, batch, lambda *args: jax.device_get(loss(*args))


def norm(tree):
  return np.sqrt(sum(np.square(x, dtype=float).sum() for x in jax.tree.leaves(tree)))


@pytest.mark.complete  # configs/quickstart.py:tiny trains and measures one
def test_psnr_rises_and_the_latents_get_measured():
  task = autoencoding.Autoencoding(
    autoencoder=kl_image.KLImage(channels=(16,), layers_per_block=1, groups=4, patch=4),
    softness=0.3,
  )
  data = squares(1, 64)
  # This kind of key is cheap to compile for.
  params = nn.unbox(jax.jit(task.init)(jax.random.key(0, impl="rbg"), {"video": data}))
  tx = optimizer.partitioned(
    {"generator": optax.adamw(4e-3, b2=0.95), "frozen": optax.set_to_zero()},
    autoencoding.param_group,
  )

  @jax.jit
  def step(params, opt_state, video, key):
    grads, metrics = jax.grad(task.loss, has_aux=True)(params, {"video": video}, key)
    updates, opt_state = tx.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, metrics

  opt_state, curve = tx.init(params), []
  rng = np.random.default_rng(0)
  for i in range(60):
    video = data[rng.choice(64, 16, replace=False)]
    params, opt_state, metrics = step(params, opt_state, video, jax.random.key(i))
    curve.append({k: float(v) for k, v in metrics.items()})
  assert curve[-1]["psnr"] > curve[0]["psnr"] + 6.0
  assert curve[-1]["loss"] < 0.3 * curve[0]["loss"]

  stats = params["autoencoder"]["latents"]  # weight decay did not reach them
  np.testing.assert_array_equal(stats["shift"], 0.0)
  np.testing.assert_array_equal(stats["scale"], 1.0)

  fresh = squares(2, 32)
  measured = task.finish(params, ({"video": fresh[i : i + 16]} for i in (0, 16)))
  ae = task.autoencoder
  moments = jax.jit(ae.encode)(
    measured["autoencoder"], autoencoding.float_video({"video": fresh})
  )
  z = np.asarray(ae.latents(measured["autoencoder"], moments, key))
  np.testing.assert_allclose(z.mean((0, 1, 2, 3)), 0.0, atol=0.1)
  np.testing.assert_allclose(z.std((0, 1, 2, 3)), 1.0, atol=0.1)
  before, after = (jax.jit(task.reconstruct)(p, fresh) for p in (params, measured))
  np.testing.assert_allclose(before, after, atol=1e-3)
  real = autoencoding.float_video({"video": fresh})
  pairs = zip(np.split(real, 2, axis=1), np.split(after, 2, axis=1), strict=True)
  unseen = [frames.psnr_per_video(x, y, peak=2.0).mean() for x, y in pairs]
  assert min(unseen) > curve[0]["psnr"] + 6.0


def test_each_player_gets_its_own_gradient(game):
  """The gradient of the sum is the two gradients of the two losses, kept apart."""
  task, params, batch, loss = game
  (total, metrics), grads = loss(params, batch, key)
  names = {"l1", "kl", "psnr", "perceptual", "loss", "gan/generator"}
  assert names | {"gan/discriminator", "gan/real", "gan/fake"} == set(metrics)
  assert all(np.ndim(x) == 0 and np.isfinite(x) for x in metrics.values())
  np.testing.assert_allclose(total, metrics["loss"])

  # By hand, without stop_gradient: each player's loss as a function of its own weights.
  real = np.asarray(autoencoding.float_video(batch))

  def output(p):
    ae = task.autoencoder
    latents = ae.latents(p, ae.encode(p, real), jax.random.split(key)[1])
    return ae.decode(p, latents)

  def judge(p, x):
    return Judge().apply({"params": p}, x)

  @jax.jit
  def by_hand(p):
    ae, d = p["autoencoder"], p["discriminator"]

    def second(d):
      return discriminator.discriminator_loss(judge(d, real), judge(d, output(ae)))

    def joined(p):  # what one gets without stopping any gradient
      d, fake = p["discriminator"], output(p["autoencoder"])
      return 0.5 * discriminator.generator_loss(judge(d, fake)) + second(d)

    first = jax.grad(lambda ae: -0.5 * judge(d, output(ae)).mean())
    return first(ae), jax.grad(second)(d), jax.grad(joined)(p)["discriminator"]

  gan, discriminators, joined = jax.device_get(by_hand(params))
  near = lambda a, b: norm(jax.tree.map(np.subtract, a, b)) < 1e-4 * norm(b)
  assert near(grads["discriminator"], discriminators)
  assert not near(joined, discriminators)

  rest = dataclasses.replace(task, gan_weight=0.0)
  gradient = jax.jit(jax.grad(rest.loss, has_aux=True))
  plain = jax.device_get(gradient(params, batch, key)[0])
  summed = jax.tree.map(np.add, plain["autoencoder"], gan)
  assert near(grads["autoencoder"], summed)
  assert not near(grads["autoencoder"], plain["autoencoder"])


def test_gan_is_silent_before_its_start(game):
  task, params, batch, loss = game
  early = {**batch, "step": np.int32(9)}
  (total, metrics), grads = loss(params, early, key)
  assert norm(grads["discriminator"]) == 0.0
  assert metrics["gan/generator"] == metrics["gan/discriminator"] == 0.0
  rest = metrics["l1"] + metrics["perceptual"]
  np.testing.assert_allclose(total, rest, rtol=1e-4)
  (late, _), grads = loss(params, batch, key)
  assert norm(grads["discriminator"]) > 0.0
  assert abs(float(late - total)) > 0.1


def test_without_a_gan_there_is_no_discriminator():
  task = autoencoding.Autoencoding(autoencoder=Linear())
  params = jax.eval_shape(task.init, key, {"video": squares(0, 1)})
  assert set(params) == {"autoencoder"}
  _, metrics = jax.eval_shape(task.loss, params, {"video": squares(0, 1)}, key)
  assert set(metrics) == {"l1", "kl", "psnr", "perceptual", "loss"}


def test_gan_needs_the_step(game):
  task, params, batch, _ = game
  with pytest.raises(KeyError, match="gan_start=10 needs batch"):
    jax.eval_shape(task.loss, params, {"video": batch["video"]}, key)


def test_perceptual_networks_are_frozen():
  @dataclasses.dataclass(frozen=True)
  class Weighted:
    def init(self):
      return {"weight": np.float32(3.0)}

    def __call__(self, params, x, y):
      return params["weight"] * jnp.square(x - y).mean((1, 2, 3))

  task = autoencoding.Autoencoding(autoencoder=Linear(), perceptual=Weighted())
  batch = {"video": squares(0, 1)}
  params = jax.jit(task.init)(key, batch)
  assert params["perceptual"]["weight"] > 2.0
  grads, metrics = jax.jit(jax.grad(task.loss, has_aux=True))(params, batch, key)
  assert metrics["perceptual"] > 0.0 and norm(grads["autoencoder"]) > 0.0
  assert norm(grads["perceptual"]) == 0.0
  assert norm(grads["autoencoder"]["latents"]) == 0.0


def test_every_parameter_has_a_player():
  for path, name in (
    ("autoencoder/encoder/conv_in/kernel", "generator"),
    ("autoencoder/latents/scale", "frozen"),
    ("perceptual/conv_0/kernel", "frozen"),
    ("discriminator/conv_in/kernel", "discriminator"),
  ):
    assert autoencoding.param_group(path) == name


def test_frames_are_drawn_without_repetition_and_in_order():
  clip = np.arange(5.0, dtype=np.float32)[:, None, None, None]
  frames = np.tile(clip, (40, 1, 1, 1, 1))
  draw = jax.jit(autoencoding.draw_frames, static_argnums=2)
  drawn = np.asarray(draw(key, frames, 3))[..., 0, 0, 0]
  assert drawn.shape == (40, 3)
  assert np.all(np.diff(drawn, axis=1) > 0)
  counts = np.unique(drawn, return_counts=True)[1]
  assert len(counts) == 5 and counts.min() > 10  # 24 each is expected
  with pytest.raises(ValueError, match="frames_per_clip=6 is more than the 5 frames"):
    autoencoding.draw_frames(key, frames, 6)
  task = autoencoding.Autoencoding(autoencoder=Linear(), frames_per_clip=1)
  spec = jax.eval_shape(task.init, key, {"video": squares(0, 2)})
  jax.eval_shape(task.loss, spec, {"video": squares(0, 2)}, key)


def test_uint8_and_float_are_the_same_video():
  video = squares(0, 1)
  floats = np.asarray(autoencoding.float_video({"video": video}))
  assert floats.dtype == np.float32
  assert floats.min() == -1.0 and -1.0 < floats.max() <= 1.0
  again = autoencoding.float_video({"video": floats})
  np.testing.assert_array_equal(floats, again)
  assert autoencoding.float_video({"video": np.full((1,), 255, np.uint8)})[0] == 1.0
  with pytest.raises(TypeError, match="int32; it must be uint8"):
    autoencoding.float_video({"video": video.astype(np.int32)})
  with pytest.raises(KeyError, match=r"\['label'\]; an autoencoder needs 'video'"):
    autoencoding.float_video({"label": 3})


def test_wrong_hyper_parameters_are_refused():
  with pytest.raises(ValueError, match="gan_weight=-1 must not be negative"):
    autoencoding.Autoencoding(autoencoder=Linear(), gan_weight=-1)
  with pytest.raises(ValueError, match="frames_per_clip=0"):
    autoencoding.Autoencoding(autoencoder=Linear(), frames_per_clip=0)
  over_time = discriminator.PatchDiscriminator(time_kernel=3)
  drawn = dict(autoencoder=Linear(), frames_per_clip=2, discriminator=over_time)
  with pytest.raises(ValueError, match="frames_per_clip=2 draws .* time_kernel=3"):
    autoencoding.Autoencoding(**drawn, gan_weight=0.1)
  autoencoding.Autoencoding(**drawn)  # it plays no game


def test_a_mesh_that_would_teach_it_wrongly_is_refused():
  """See vdm_jax.tasks.autoencoding.check_mesh; measured: kernels' gradients doubled."""
  axes = lambda **sizes: jax.sharding.AbstractMesh(tuple(sizes.values()), tuple(sizes))
  with jax.sharding.use_abstract_mesh(axes(data=2, seq=2, tensor=2)):
    with pytest.raises(ValueError, match="cannot be trained on a mesh with"):
      autoencoding.check_mesh()
  for fine in (axes(data=2, seq=2, tensor=1), axes(data=2, fsdp=2)):
    with jax.sharding.use_abstract_mesh(fine):
      autoencoding.check_mesh()
