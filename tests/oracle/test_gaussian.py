"""The oracle is the truth: Tweedie, conditioning, losses and flows agree."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support import drawn, suite
from vdm_jax.conditioning import Conditioning
from vdm_jax.diffusion import process as p
from vdm_jax.diffusion.samplers import heun
from vdm_jax.oracle import gaussian, measure, mixture

pytestmark = pytest.mark.usefixtures("double")
OU = functools.partial(gaussian.ornstein_uhlenbeck, correlation=0.8, variance=0.7)
SCENE = functools.partial(gaussian.constant, variance=0.3)
WORLD = gaussian.GaussianVideo(
  functools.partial(gaussian.kernel_sum, kernels=(OU, SCENE)), mean=0.4
)
OTHER = gaussian.GaussianVideo(functools.partial(gaussian.rbf, length=2.0), mean=-1.0)
MIXTURE = mixture.GaussianMixture((WORLD, OTHER), (0.3, 0.7))
PROCESSES = [p.Flow(), *suite.only_complete(p.DDPM(), p.EDM())]
SHAPE = (2, 5, 2, 1, 1)
APART = np.arange(5) - np.arange(5)[:, None]
C = 0.7 * 0.8 ** np.abs(APART) + 0.3  # the covariance of WORLD


def case(process):
  """x_t and a time for each frame."""
  rng = np.random.default_rng(0)
  t = process.t_max * rng.uniform(0.05, 0.9, SHAPE[:2])
  return rng.standard_normal(SHAPE) + 0.3, t


def compiled(fn, *args):
  """fn(*args), a tree of NumPy arrays."""
  return jax.tree.map(np.asarray, jax.jit(fn)(*args))


@pytest.mark.parametrize("process", PROCESSES, ids=lambda q: type(q).__name__)
def test_denoisers_are_tweedies(process):
  x_t, t = case(process)
  plain = mixture.GaussianMixture((WORLD,), (1.0,))

  @jax.jit
  def run(x):
    """The estimate, and Tweedie's, of the one and of both components."""
    out, (alpha, sigma) = [], process.alpha_sigma(t)
    for world, density in ((WORLD, plain), (MIXTURE, MIXTURE)):
      log_density = lambda x, q=density: q.log_density_and_joint(process, x, t)[0].sum()
      tweedies = x + p.expand(sigma**2) * jax.grad(log_density)(x)
      estimate = world.denoiser(process)(x, t, None).x0
      out.append(jnp.stack([estimate, tweedies / p.expand(alpha)]))
    return out

  found, moved = run(x_t), np.asarray(run(x_t + 0.1)[1])
  for pair in map(np.asarray, found):
    np.testing.assert_allclose(*pair, rtol=1e-9, atol=1e-9)
  assert np.abs(pair[0] - moved[1]).max() > 1e-3


def test_the_mixtures_density_is_the_sum_of_normals():
  x_t, t = case(p.Flow())
  run = lambda x, t: MIXTURE.log_density_and_joint(p.Flow(), x, t)[0]
  out, alpha, sigma = compiled(run, x_t, t), 1.0 - t, t
  parts = (0.4, C, 0.3), (-1.0, np.exp(-0.5 * (APART / 2.0) ** 2), 0.7)
  for b in range(2):
    total = 0.0
    for mean, c, weight in parts:
      a = np.diag(alpha[b])
      cov = a @ c @ a + np.diag(sigma[b] ** 2)
      rest = x_t[b, :, :, 0, 0] - alpha[b][:, None] * mean
      form = np.einsum("ih,ij,jh->", rest, np.linalg.inv(cov), rest)
      scale = np.linalg.det(2 * np.pi * cov) ** -1.0  # two pixels
      total += weight * scale * np.exp(-0.5 * form)
    np.testing.assert_allclose(out[b], np.log(total), rtol=1e-9)


def test_a_label_names_the_component():
  x_t, t = case(p.Flow())

  def run(x, t):
    denoisers = [world.denoiser(p.Flow()) for world in (WORLD, OTHER, MIXTURE)]
    said = [Conditioning(vectors={"label": np.array(k)}) for k in ([0, 1], [2, 2])]
    each = [denoise(x, t, None).x0 for denoise in denoisers]
    return each, [denoisers[-1](x, t, cond).x0 for cond in said]

  (world, other, both), (one, null) = compiled(run, x_t, t)
  np.testing.assert_allclose(one, [world[0], other[1]], rtol=1e-9)
  np.testing.assert_allclose(null, both, rtol=1e-9)
  sample = lambda key: MIXTURE.sample(key, (400, 5, 2, 1, 1))
  videos, labels = compiled(sample, jax.random.key(0))
  np.testing.assert_allclose(labels.mean(), 0.7, atol=0.07)
  np.testing.assert_allclose(videos[labels == 1].mean(), -1.0, atol=0.15)
  with pytest.raises(ValueError, match="one weight"):
    mixture.GaussianMixture((WORLD,), (0.5, 0.5))


@pytest.mark.parametrize("x64", [True, False])
def test_frames_at_time_0_are_given(x64):
  """The conditional mean of Gaussian frames, from C alone, in both precisions."""
  x_t, t = case(p.Flow())
  known, expected = np.array([0, 3]), np.array([1, 2, 4])
  t[:, known], t[:, expected] = 0.0, 1.0  # nothing known of the others
  with jax.enable_x64(x64):
    out = compiled(WORLD.denoiser(p.Flow()), x_t, t, None).x0
  gain = C[np.ix_(expected, known)] @ np.linalg.inv(C[np.ix_(known, known)])
  mean = 0.4 + np.einsum("ij,bj...->bi...", gain, x_t[:, known] - 0.4)
  np.testing.assert_allclose(out[:, expected], mean, atol=1e-4)
  np.testing.assert_allclose(out[:, known], x_t[:, known], atol=1e-4)


def test_clean_frames_that_are_alike_are_sound_in_single_precision():
  """A singular covariance: all frames are one number, and all but one are given."""
  world = gaussian.GaussianVideo(SCENE)
  makes = world.denoiser, world.causal_denoiser
  run = lambda x, t: [make(p.Flow())(x, t, None).x0 for make in makes]
  # The error of x0 is below the rounding of C here, that of the noise is not.
  loss, few = lambda t: WORLD.bayes_loss(p.Flow(), "velocity", t), np.full((1, 5), 2e-3)
  with jax.enable_x64(False):
    t = np.float32(np.arange(40)[None] == 39)
    estimates = compiled(run, np.full((1, 40, 2, 1, 1), 0.3), t)
    out = compiled(loss, few)
  np.testing.assert_allclose(estimates, np.full((2, 1, 40, 2, 1, 1), 0.3), atol=1e-4)
  np.testing.assert_allclose(out, compiled(loss, few), rtol=1e-4)


def test_positions_are_those_of_the_whole_video():
  """Frames 0, 3, 4 of a video are what is left if the others are pure noise."""
  denoise, seen = WORLD.denoiser(p.EDM(t_max=1e9)), np.array([0, 3, 4])
  x_t, t = case(p.Flow())
  hidden = np.where(np.isin(range(5), seen), t, 1e8)
  cond = Conditioning(positions=np.array([seen, seen + 7]))
  part = x_t[:, seen], t[:, seen]
  run = lambda *each: [denoise(*args).x0 for args in each]
  whole, out, near = compiled(run, (x_t, hidden, None), (*part, cond), (*part, None))
  np.testing.assert_allclose(out, whole[:, seen], rtol=1e-6)
  assert np.abs(near - whole[:, seen]).max() > 1e-2


def test_a_causal_denoiser_sees_the_past_and_nothing_else():
  x_t, t = case(p.Flow())
  full, causal = WORLD.denoiser(p.Flow()), WORLD.causal_denoiser(p.Flow())
  # Of the full denoiser the last frame of the video cut after two and after four.
  last = lambda x, t: [full(x[:, :n], t[:, :n], None).x0[:, -1] for n in (2, 4)]
  run = jax.jit(lambda x, t: (causal(x, t, None).x0, last(x, t)))
  out, cut = jax.tree.map(np.asarray, run(x_t, t))
  np.testing.assert_allclose(out[:, [1, 3]].swapaxes(0, 1), cut, rtol=1e-9)
  x_t[:, 3] += 1.0
  t[:, 4] *= 0.5
  later = np.asarray(run(x_t, t)[0])
  np.testing.assert_array_equal(out[:, :3], later[:, :3])
  assert np.abs(out[:, 3:] - later[:, 3:]).min() > 1e-3


@pytest.mark.parametrize(
  "prediction", suite.choose(("x0", "eps", "v", "velocity"), "velocity")
)
def test_the_bayes_loss_is_what_the_best_denoiser_leaves(prediction):
  process = p.Flow()
  t, shape = np.array([[0.2, 0.9, 0.5, 0.5, 0.7]]), (400, 5, 8, 8, 1)

  def run(key, eps):
    x0 = WORLD.sample(key, shape)
    x_t = p.mix(process.alpha_sigma(t), x0, eps)
    x0_hat = WORLD.denoiser(process)(x_t, jnp.broadcast_to(t, (400, 5)), None).x0
    eps_hat = p.eps_from_x0(process, x_t, x0_hat, t)
    row = p.prediction_coefficients(prediction, process, t)
    error = (p.mix(row, x0, eps) - p.mix(row, x0_hat, eps_hat)) ** 2
    return error, WORLD.bayes_loss(process, prediction, t)[0]

  error, bayes = compiled(run, jax.random.key(0), drawn.normal(*shape))
  error = np.moveaxis(error, 1, 0).reshape(5, -1)
  deviation = error.std(axis=1) / np.sqrt(error.shape[1])
  assert (np.abs(error.mean(axis=1) - bayes) < 3.5 * deviation).all()
  assert (np.abs(1.05 * error.mean(axis=1) - bayes) > 3.5 * deviation).any()


def test_the_flow_map_composes_and_is_solved_and_carries_the_distribution():
  x, _ = case(p.Flow())
  ts, denoise = np.linspace(0.8, 0.1, 129), WORLD.denoiser(p.Flow())
  flow = functools.partial(WORLD.probability_flow, p.Flow())
  solve = lambda x, key: heun.heun(denoise, p.Flow(), x, ts, None, key)
  twice = lambda x: flow(flow(x, 0.8, 0.4), 0.4, 0.1)
  run = lambda x, key: (flow(x, 0.8, 0.1), twice(x), solve(x, key))
  there, composed, solved = compiled(run, x, jax.random.key(0))
  np.testing.assert_allclose(composed, there, rtol=1e-9)
  np.testing.assert_allclose(solved, there, atol=1e-4)
  assert np.abs(solved - x).max() > 0.1
  carry = jax.jit(lambda x, key: flow(x, 0.8, 0.1))
  jacobian, mean = measure.sampler_affine_map(carry, 5)
  before = 0.2**2 * C + 0.8**2 * np.eye(5)
  after = 0.9**2 * C + 0.1**2 * np.eye(5)
  np.testing.assert_allclose(jacobian @ before @ jacobian.T, after, atol=1e-9)
  np.testing.assert_allclose(mean + jacobian @ np.full(5, 0.2 * 0.4), 0.9 * 0.4)


def test_samples_have_the_covariance():
  sample = lambda key: WORLD.sample(key, (2000, 5, 8, 1, 1))
  x = compiled(sample, jax.random.key(1)).swapaxes(0, 1)
  np.testing.assert_allclose(np.cov(x.reshape(5, -1)), C, atol=0.05)
  np.testing.assert_allclose(x.mean(), 0.4, atol=0.02)
