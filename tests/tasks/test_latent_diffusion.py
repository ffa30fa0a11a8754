"""A task trains on latents, and samples what its network has learnt."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support.refusals import refused
from vdm_jax import conditioning
from vdm_jax.diffusion import guidance, masks, times
from vdm_jax.diffusion import loss as losses
from vdm_jax.diffusion import process as p
from vdm_jax.diffusion.samplers import ddim
from vdm_jax.tasks import latent_diffusion
from vdm_jax.tasks.latent_diffusion import LatentDiffusion

B, T = 4, 3
SHAPE = (B, T, 2, 2, 3)
CLASSES = 3
KEY = jax.random.key(0)
X0 = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
BATCH = {"latents": X0, "label": np.arange(B) % CLASSES, "step": np.int32(3)}


def conditioner(batch):
  label = jnp.asarray(batch["label"], jnp.int32)
  null = conditioning.Conditioning(vectors={"label": jnp.full_like(label, CLASSES)})
  return conditioning.Conditioning(vectors={"label": label}), null


def wave(key, shape, dtype=jnp.float32):
  """Weights that need no random numbers, which are slow to compile."""
  del key
  return jnp.sin(jnp.arange(np.prod(shape), dtype=dtype)).reshape(shape)


dense = lambda width=8: nn.Dense(width, kernel_init=wave)


class Small(nn.Module):
  """Two layers, a label, a time for each frame, the mask if there is one, dropout."""

  @nn.compact
  def __call__(self, x, t, cond, *, train=False):
    time = jnp.stack([jnp.sin(t), jnp.cos(t)], axis=-1)  # [B, T, 2]
    h = dense()(x) + dense()(time)[:, :, None, None]
    table = nn.Embed(CLASSES + 1, 8, embedding_init=wave)
    h += table(cond.vectors["label"])[:, None, None, None]
    if cond.mask is not None:
      h += dense()(cond.mask.astype(x.dtype))
    h += h.mean(axis=1, keepdims=True)  # frames see one another
    h = nn.Dropout(0.1, deterministic=not train)(nn.silu(h))
    return dense(x.shape[-1])(h)


class Exact(nn.Module):
  """The best velocity on flow for data N(label, std^2); label 3 stands for the mean."""

  @nn.compact
  def __call__(self, x, t, cond, *, train=False):
    std = self.param("std", nn.initializers.constant(0.1), ())
    means = jnp.array([0.0, 1.0, 2.0, 1.0])
    mean = means[cond.vectors["label"]][:, None, None, None, None]
    t = p.expand(t / 1000)
    total = (1 - t) ** 2 * std**2 + t**2
    x0 = ((1 - t) * std**2 * x + t**2 * mean) / total
    return t * (x - (1 - t) * mean) / total - x0


small = functools.partial(LatentDiffusion, network=Small(), conditioner=conditioner)
EXACT = LatentDiffusion(
  network=Exact(), process=p.Flow(), prediction="velocity", conditioner=conditioner
)
exact_sample = functools.partial(
  EXACT.sample, {"std": 0.1}, BATCH, shape=SHAPE, key=KEY, sampler=ddim.ddim
)
TASKS = {
  "latte": small(process=p.DDPM(), prediction="eps", times=times.uniform_steps),
  "flow": small(
    process=p.Flow(),
    prediction="velocity",
    times=functools.partial(times.shifted, base=times.logit_normal, shift=2.0),
    drop_rates={"label": 0.1},
    mask_rates={"first": 0.5, "random": 0.5},
  ),
  "edm": small(
    process=p.EDM(),
    prediction="edm",
    times=times.lognormal,
    weight=losses.min_snr_weight,
    drop_rates={"label": 0.5},
  ),
}


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS.keys())
def test_a_task_trains_and_samples(task):
  params = jax.device_get(jax.jit(task.init)(KEY, BATCH))
  compiled = jax.jit(jax.value_and_grad(task.loss, has_aux=True))
  step = lambda *args: jax.device_get(compiled(*args))
  (loss, metrics), grads = step(params, BATCH, KEY)
  assert loss.shape == () and all(m.shape == () for m in metrics.values())
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
  assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(grads))
  (again, _), _ = step(params, BATCH, KEY)
  (other, _), _ = step(params, BATCH, jax.random.key(1))
  assert loss == again and loss != other
  # A step down the gradient lowers the loss of the same draws.
  lower = jax.tree.map(lambda w, g: w - 1e-3 * g, params, grads)
  assert step(lower, BATCH, KEY)[0][0] < loss

  grid = functools.partial(times.uniform_grid, num_steps=3)
  guide = functools.partial(guidance.guide, drop=(("label",),), scales=(2.0,))
  sample = functools.partial(
    task.sample, shape=SHAPE, sampler=ddim.ddim, ts=grid, wrappers=(guide,)
  )
  out = jax.jit(lambda params, key: sample(params, BATCH, key=key))(params, KEY)
  assert out.shape == SHAPE and np.isfinite(out).all()


def test_every_random_choice_has_its_own_key(monkeypatch):
  keys = {}

  def spy(name, position, result):
    def choose(*args, **kwargs):
      keys[name] = jax.random.key_data(args[position])
      return result

    return choose

  cond, _ = conditioner(BATCH)
  mask = np.zeros((B, T, 1, 1, 1), bool)
  monkeypatch.setattr(latent_diffusion, "posterior_latents", spy("latents", 1, X0))
  monkeypatch.setattr(masks, "sample_masks", spy("mask", 0, mask))
  monkeypatch.setattr(conditioning, "drop", spy("drop", 0, cond))
  monkeypatch.setattr(losses, "denoising_loss", spy("noise", 6, (0.0, {})))
  drawn = spy("time", 1, jnp.zeros((B, 1)))
  task = small(process=p.Flow(), prediction="v", times=drawn, mask_rates={"first": 0.5})

  @jax.jit
  def choose(key):
    task.loss({}, BATCH, key)
    return keys

  found = choose(KEY)
  assert set(found) == {"latents", "mask", "drop", "noise", "time"}
  assert len({np.asarray(x).tobytes() for x in found.values()}) == 5


def test_moments_are_sampled_anew():
  mean, std = 2.0, 0.5
  moments = {
    "mean": np.full((64, *SHAPE[1:]), mean, np.float16),
    "logvar": np.full((64, *SHAPE[1:]), 2 * np.log(std), np.float16),
  }
  draw = jax.jit(latent_diffusion.posterior_latents)
  x0, other = (np.asarray(draw(moments, key)) for key in (KEY, jax.random.key(1)))
  assert x0.dtype == np.float32 and not np.array_equal(x0, other)
  np.testing.assert_allclose(x0.mean(), mean, atol=0.05)
  np.testing.assert_allclose(x0.std(), std, rtol=0.05)
  np.testing.assert_array_equal(latent_diffusion.posterior_latents(BATCH, KEY), X0)
  with pytest.raises(KeyError, match="Encode the videos first"):
    latent_diffusion.posterior_latents({"video": X0}, KEY)


@pytest.fixture(scope="module")
def sampled():
  """200 exact samples of each label, plain and guided; given frames in the second."""
  shape = (3 * 200, T, 2, 2, 1)
  batch = {"label": np.repeat(np.arange(3), 200)}
  frame = np.arange(T, dtype=np.float32).reshape(T, 1, 1, 1)
  known = np.full(shape, 0.123, np.float32) + frame
  guide = functools.partial(guidance.guide, drop=(("label",),), scales=(3.0,))
  ts = times.uniform_grid(p.Flow(), num_steps=50)

  @jax.jit
  def run(key):
    sample = functools.partial(
      EXACT.sample, {"std": 0.1}, batch, shape, key, sampler=ddim.ddim, ts=ts
    )
    mask = masks.ends_mask(T)
    return sample(), sample(wrappers=(guide,), known=known, mask=mask)

  return *jax.device_get(run(KEY)), known


def test_samples_have_the_law_of_their_label(sampled):
  plain = sampled[0].reshape(3, 200, -1)
  np.testing.assert_allclose(plain.mean((1, 2)), [0.0, 1.0, 2.0], atol=0.02)
  np.testing.assert_allclose(plain.std((1, 2)), 0.1, atol=0.02)


def test_guidance_exaggerates_and_given_frames_stay_to_the_bit(sampled):
  _, guided, known = sampled
  np.testing.assert_array_equal(guided[:, [0, 2]], known[:, [0, 2]])
  middle = guided[:, 1].reshape(3, -1)
  # 1 + 3 (label - 1): the guided score of Gaussians of one width is a Gaussian's.
  np.testing.assert_allclose(middle.mean(1), [-2.0, 1.0, 4.0], atol=0.05)


def test_given_frames_are_held_by_a_matrix_too():
  ts = np.linspace(1.0, 0.0, 5)[:, None] * np.array([0.0, 1.0, 1.0])
  sample = functools.partial(exact_sample, mask=np.array([True, False, False]))
  out = np.asarray(jax.jit(lambda: sample(ts=ts, known=X0))())
  np.testing.assert_array_equal(out[:, 0], X0[:, 0])
  assert np.isfinite(out).all() and not np.isclose(out[:, 1:], X0[:, 1:]).all()


def test_bad_requests_are_refused():
  ts = np.ones(2)
  sample = lambda **more: jax.eval_shape(lambda: exact_sample(ts=ts, **more))
  none, task = np.zeros(5, bool), functools.partial(small, process=p.Flow())
  calls = {
    "both known and mask": lambda: sample(known=X0),
    "7 videos were asked for.*signals for 4": lambda: sample(shape=(7, *SHAPE[1:])),
    "with T = 3": lambda: sample(known=X0, mask=none),
    "'speed'; expected one of": lambda: task(prediction="speed"),
    "sigma_data": lambda: task(prediction="edm"),
  }
  refused(ValueError, calls)
  wrong = task(prediction="v", drop_rates={"lable": 0.1})
  with pytest.raises(KeyError, match=r"lable.*there are.*label"):
    jax.eval_shape(lambda: wrong.loss({}, BATCH, KEY))


def test_joint_training_is_the_mean_over_all_frames_of_clips_and_pictures():
  """Pictures are clips of one frame with labels of their own, and see no clip."""
  task = small(process=p.Flow(), prediction="velocity", mask_rates={"first": 0.5})
  params = jax.jit(task.init)(KEY, BATCH)
  pictures = np.random.default_rng(1).standard_normal((B, 2, 2, 2, 3))
  labels = np.array([[0, 1], [2, 0], [1, 1], [2, 2]])
  joint = BATCH | {"pictures": {"latents": pictures, "label": labels}}

  @jax.jit
  def losses_of(batch):
    single = {
      "latents": jnp.asarray(pictures).reshape(8, 1, 2, 2, 3),
      "label": labels.reshape(8),
    }
    k_pictures = jax.random.fold_in(KEY, 1)
    of_pictures, _ = task._loss(params, single, k_pictures, {})
    return task.loss(params, batch, KEY), task.loss(params, BATCH, KEY)[0], of_pictures

  (loss, metrics), clips, pictures_loss = losses_of(joint)
  np.testing.assert_allclose(loss, (T * clips + 2 * pictures_loss) / (T + 2), rtol=1e-5)
  np.testing.assert_allclose(metrics["image_mse"], pictures_loss, rtol=1e-5)
  others = joint["pictures"] | {"label": (labels + 1) % 3}
  (other, _), *_ = losses_of(joint | {"pictures": others})
  assert abs(other - loss) > 1e-4


def test_a_batch_keeps_the_latents_of_a_first_frame():
  """`conditioner.Image` reads "image_latents": no picture of joint training."""
  read = []

  def reads(batch):
    read.append(sorted(batch))
    return conditioner(batch)

  task = small(process=p.Flow(), prediction="velocity", conditioner=reads)
  batch = BATCH | {"image_latents": X0[:, :1]}
  jax.eval_shape(lambda: task.loss(task.init(KEY, batch), batch, KEY))
  assert read == [sorted(batch)] * 2


@pytest.mark.parametrize("process", [p.Flow(), p.DDPM()], ids=["flow", "ddpm"])
def test_a_start_is_noised_to_the_first_time_of_the_grid(process):
  task = small(network=Exact(), process=process, prediction="eps")
  seen = {}

  def sampler(denoise, process, x, ts, cond, key):
    seen.update(x=x, ts=ts)
    return x

  level = 0.3 * process.t_max
  ones = lambda key, shape: jnp.ones(shape)
  ts = np.array([level, 0.0], np.float32)

  @jax.jit
  def run():
    task.sample({}, BATCH, SHAPE, KEY, sampler=sampler, ts=ts, noise=ones, start=X0)
    alpha, sigma = process.alpha_sigma(jnp.array(level))
    return seen, alpha * X0 + sigma

  found, expected = jax.device_get(run())
  np.testing.assert_allclose(found["x"], expected, rtol=1e-5)
  assert found["ts"].shape == (2,) and found["ts"][0] == ts[0]


def test_from_little_noise_a_start_comes_back_and_from_much_it_is_forgotten():
  """SDEdit with the exact denoiser of data N(label, 0.1^2)."""
  far = np.full(SHAPE, 1.5, np.float32)  # no such data: it is drawn to the mean
  grid = lambda level: np.linspace(level, 0.0, 41, dtype=np.float32)
  sample = jax.jit(lambda ts: exact_sample(ts=ts, start=far))
  little, much = (np.asarray(sample(grid(level))) for level in (0.01, 1.0))
  np.testing.assert_allclose(little, far, atol=0.05)
  means = np.array([0.0, 1.0, 2.0])[BATCH["label"]][:, None, None, None, None]
  np.testing.assert_allclose(much, np.broadcast_to(means, SHAPE), atol=0.6)
  assert np.abs(much - far).mean() > 10 * np.abs(little - far).mean()
