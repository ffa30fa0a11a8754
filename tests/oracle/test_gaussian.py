"""The oracle is the truth: Tweedie, conditioning, losses and flows agree."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support import suite
from vdm_jax.conditioning import Conditioning
from vdm_jax.diffusion import process as p
from vdm_jax.diffusion.samplers import heun
from vdm_jax.oracle import gaussian, measure, mixture

OU = functools.partial(gaussian.ornstein_uhlenbeck, correlation=0.8, variance=0.7)
SCENE = functools.partial(gaussian.constant, variance=0.3)
WORLD = gaussian.GaussianVideo(
  functools.partial(gaussian.kernel_sum, kernels=(OU, SCENE)), mean=0.4
)
OTHER = gaussian.GaussianVideo(functools.partial(gaussian.rbf, length=2.0), mean=-1.0)
MIXTURE = mixture.GaussianMixture((WORLD, OTHER), (0.3, 0.7))
PROCESSES = [p.Flow(), p.DDPM(), p.EDM()]
SHAPE = (2, 5, 2, 1, 1)


def case(process):
  """x_t and a time for each frame."""
  rng = np.random.default_rng(0)
  t = process.t_max * jnp.asarray(rng.uniform(0.05, 0.9, SHAPE[:2]))
  return jnp.asarray(rng.standard_normal(SHAPE)) + 0.3, t


def tweedie(log_density, process, x_t, t):
  """(x + sigma^2 grad log p(x)) / alpha."""
  alpha, sigma = process.alpha_sigma(t)
  score = jax.grad(lambda x: log_density(x, t).sum())(x_t)
  return (x_t + p.expand(sigma**2) * score) / p.expand(alpha)


@pytest.fixture(autouse=True)
def double():
  with jax.enable_x64(True):
    yield


@pytest.mark.parametrize("process", PROCESSES, ids=lambda q: type(q).__name__)
def test_denoisers_are_tweedies(process):
  x_t, t = case(process)
  plain = mixture.GaussianMixture((WORLD,), (1.0,))
  for world, density in ((WORLD, plain), (MIXTURE, MIXTURE)):
    log_density = lambda x, t, q=density: q.log_density_and_joint(process, x, t)[0]
    expected = tweedie(log_density, process, x_t, t)
    out = jax.jit(world.denoiser(process))(x_t, t, None).x0
    np.testing.assert_allclose(out, expected, rtol=1e-9, atol=1e-9)
  moved = tweedie(log_density, process, x_t + 0.1, t)
  assert np.abs(out - moved).max() > 1e-3


def test_the_mixtures_density_is_the_sum_of_normals():
  process = p.Flow()
  x_t, t = case(process)
  out, _ = MIXTURE.log_density_and_joint(process, x_t, t)
  alpha, sigma = process.alpha_sigma(t)
  for b in range(2):
    total = 0.0
    for world, weight in ((WORLD, 0.3), (OTHER, 0.7)):
      a = np.diag(alpha[b])
      cov = a @ world.covariance(5) @ a + np.diag(sigma[b] ** 2)
      rest = x_t[b, :, :, 0, 0] - alpha[b][:, None] * world.mean
      form = np.einsum("ih,ij,jh->", rest, np.linalg.inv(cov), rest)
      scale = np.linalg.det(2 * np.pi * cov) ** -1.0  # two pixels
      total += weight * scale * np.exp(-0.5 * form)
    np.testing.assert_allclose(out[b], np.log(total), rtol=1e-9)


def test_a_label_names_the_component():
  process = p.Flow()
  x_t, t = case(process)
  said = lambda label: Conditioning(vectors={"label": jnp.full(2, label)})
  run = MIXTURE.denoiser(process)
  for label, world in enumerate((WORLD, OTHER)):
    expected = world.denoiser(process)(x_t, t, None).x0
    np.testing.assert_allclose(run(x_t, t, said(label)).x0, expected, rtol=1e-9)
  np.testing.assert_allclose(run(x_t, t, said(2)).x0, run(x_t, t, None).x0, rtol=1e-9)
  videos, labels = MIXTURE.sample(jax.random.key(0), (400, 5, 2, 1, 1))
  np.testing.assert_allclose(labels.mean(), 0.7, atol=0.07)
  np.testing.assert_allclose(videos[labels == 1].mean(), -1.0, atol=0.15)
  with pytest.raises(ValueError, match="one weight"):
    mixture.GaussianMixture((WORLD,), (0.5, 0.5))


@pytest.mark.parametrize("x64", [True, False])
def test_frames_at_time_0_are_given(x64):
  """The conditional mean of Gaussian frames, from C alone, in both precisions."""
  with jax.enable_x64(x64):
    process = p.Flow()
    x_t, t = (np.asarray(x) for x in case(process))
    known, expected = np.array([0, 3]), np.array([1, 2, 4])
    t = t.copy()
    t[:, known], t[:, expected] = 0.0, 1.0  # nothing known of the others
    out = jax.jit(WORLD.denoiser(process))(jnp.asarray(x_t), jnp.asarray(t), None).x0
  c = np.asarray(WORLD.covariance(5))
  gain = c[np.ix_(expected, known)] @ np.linalg.inv(c[np.ix_(known, known)])
  rest = x_t[:, known] - 0.4
  mean = 0.4 + np.einsum("ij,bj...->bi...", gain, rest)
  tolerance = 1e-4
  np.testing.assert_allclose(out[:, expected], mean, atol=tolerance)
  np.testing.assert_allclose(out[:, known], x_t[:, known], atol=tolerance)


def test_clean_frames_that_are_alike_are_sound_in_single_precision():
  """A singular covariance: all frames are one number, and all but one are given."""
  world, process = gaussian.GaussianVideo(SCENE), p.Flow()
  with jax.enable_x64(False):
    x = jnp.full((1, 40, 2, 1, 1), 0.3)
    t = jnp.zeros((1, 40)).at[:, -1].set(1.0)
    for make in (world.denoiser, world.causal_denoiser):
      out = jax.jit(make(process))(x, t, None).x0
      np.testing.assert_allclose(out, 0.3, atol=1e-4)
    # The error of x0 is below the rounding of C here, that of the noise is not.
    loss = lambda t: WORLD.bayes_loss(process, "velocity", t)
    out = jax.jit(loss)(jnp.full((1, 5), 2e-3))
  expected = jax.jit(loss)(jnp.full((1, 5), 2e-3))
  np.testing.assert_allclose(out, expected, rtol=1e-4)


def test_positions_are_those_of_the_whole_video():
  """Frames 0, 3, 4 of a video are what is left if the others are pure noise."""
  process = p.EDM(t_max=1e9)
  x_t, t = case(p.Flow())
  seen = np.array([0, 3, 4])
  hidden = jnp.full_like(t, 1e8).at[:, seen].set(t[:, seen])
  expected = WORLD.denoiser(process)(x_t, hidden, None).x0[:, seen]
  cond = Conditioning(positions=jnp.asarray([seen, seen + 7]))
  part = x_t[:, seen], t[:, seen]
  out = WORLD.denoiser(process)(*part, cond).x0
  np.testing.assert_allclose(out, expected, rtol=1e-6)
  near = WORLD.denoiser(process)(*part, None).x0
  assert np.abs(near - expected).max() > 1e-2


def test_a_causal_denoiser_sees_the_past_and_nothing_else():
  process = p.Flow()
  x_t, t = case(process)
  run = jax.jit(WORLD.causal_denoiser(process))
  out = run(x_t, t, None).x0
  for k in range(5):  # the full denoiser of the video cut after frame k
    cut = x_t[:, : k + 1], t[:, : k + 1]
    expected = WORLD.denoiser(process)(*cut, None).x0[:, k]
    np.testing.assert_allclose(out[:, k], expected, rtol=1e-9)
  later = run(x_t.at[:, 3].add(1.0), t.at[:, 4].multiply(0.5), None).x0
  np.testing.assert_array_equal(out[:, :3], later[:, :3])
  assert np.abs(out[:, 3:] - later[:, 3:]).min() > 1e-3


@pytest.mark.parametrize(
  "prediction", suite.choose(("x0", "eps", "v", "velocity"), "velocity")
)
def test_the_bayes_loss_is_what_the_best_denoiser_leaves(prediction):
  process = p.Flow()
  t = jnp.asarray([[0.2, 0.9, 0.5, 0.5, 0.7]])
  k_video, k_noise = jax.random.split(jax.random.key(0))
  shape = (400, 5, 8, 8, 1)
  x0, eps = WORLD.sample(k_video, shape), jax.random.normal(k_noise, shape)
  x_t = p.mix(process.alpha_sigma(t), x0, eps)
  x0_hat = WORLD.denoiser(process)(x_t, jnp.broadcast_to(t, (400, 5)), None).x0
  eps_hat = p.eps_from_x0(process, x_t, x0_hat, t)
  row = p.prediction_coefficients(prediction, process, t)
  error = (p.mix(row, x0, eps) - p.mix(row, x0_hat, eps_hat)) ** 2
  error = np.moveaxis(np.asarray(error), 1, 0).reshape(5, -1)
  bayes = WORLD.bayes_loss(process, prediction, t)[0]
  deviation = error.std(axis=1) / np.sqrt(error.shape[1])
  assert (np.abs(error.mean(axis=1) - bayes) < 3.5 * deviation).all()
  assert (np.abs(1.05 * error.mean(axis=1) - bayes) > 3.5 * deviation).any()


def test_the_flow_map_composes_and_is_solved_and_carries_the_distribution():
  flow = functools.partial(WORLD.probability_flow, p.Flow())
  x, _ = case(p.Flow())
  there = flow(x, 0.8, 0.1)
  np.testing.assert_allclose(flow(flow(x, 0.8, 0.4), 0.4, 0.1), there, rtol=1e-9)
  ts, key = jnp.linspace(0.8, 0.1, 129), jax.random.key(0)
  solved = heun.heun(WORLD.denoiser(p.Flow()), p.Flow(), x, ts, None, key)
  np.testing.assert_allclose(solved, there, atol=1e-4)
  assert np.abs(solved - x).max() > 0.1
  jacobian, mean = measure.sampler_affine_map(lambda x, key: flow(x, 0.8, 0.1), 5)
  before = 0.2**2 * WORLD.covariance(5) + 0.8**2 * np.eye(5)
  after = 0.9**2 * WORLD.covariance(5) + 0.1**2 * np.eye(5)
  np.testing.assert_allclose(jacobian @ before @ jacobian.T, after, atol=1e-9)
  np.testing.assert_allclose(mean + jacobian @ np.full(5, 0.2 * 0.4), 0.9 * 0.4)


def test_samples_have_the_covariance():
  x = np.asarray(WORLD.sample(jax.random.key(1), (2000, 5, 8, 1, 1))).swapaxes(0, 1)
  np.testing.assert_allclose(np.cov(x.reshape(5, -1)), WORLD.covariance(5), atol=0.05)
  np.testing.assert_allclose(x.mean(), 0.4, atol=0.02)
