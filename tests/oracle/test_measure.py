"""Exact measures: closed forms, and noise-drawing samplers pushed through."""

import functools

import jax
import numpy as np
import pytest

from tests.support import suite
from vdm_jax.diffusion import process as p
from vdm_jax.diffusion import times
from vdm_jax.diffusion.samplers import ancestral, ddim, dpm_solver, euler, heun, unipc
from vdm_jax.oracle import gaussian, measure

pytestmark = pytest.mark.usefixtures("double")
FLOW = p.Flow()
MOTION = functools.partial(gaussian.ornstein_uhlenbeck, correlation=0.9)
WORLD = gaussian.GaussianVideo(MOTION)
PARTS = (
  functools.partial(MOTION, variance=0.7),
  functools.partial(gaussian.constant, variance=0.3),
)
SCENE = gaussian.GaussianVideo(functools.partial(gaussian.kernel_sum, kernels=PARTS))


def correlation(num_frames):
  """The covariance of WORLD."""
  i = np.arange(num_frames)
  return 0.9 ** np.abs(i[:, None] - i)


def test_wasserstein_has_its_closed_forms():
  a, b = np.diag([4.0, 9.0]), np.diag([1.0, 1.0])
  np.testing.assert_allclose(measure.squared_wasserstein_per_frame(a, b), (1 + 4) / 2)
  np.testing.assert_allclose(
    measure.squared_wasserstein_per_frame(a, a, 0.0, 2.0), 4.0, atol=1e-9
  )
  turn = np.array([[0.6, -0.8], [0.8, 0.6]])
  np.testing.assert_allclose(
    measure.squared_wasserstein_per_frame(turn @ a @ turn.T, turn @ b @ turn.T), 2.5
  )


def test_seams_motion_and_memory_are_read_from_the_covariance():
  truth = correlation(8)
  cut = truth.copy()
  cut[:4, 4:] = cut[4:, :4] = 0.0
  jump = 1 / (1 - 0.9)  # 2 against 2 (1 - rho)
  np.testing.assert_allclose(measure.seam_ratio(cut, truth, [4]), jump)
  np.testing.assert_allclose(measure.seam_ratio(cut, truth, [2]), 1.0)
  np.testing.assert_allclose(measure.motion_ratio(cut, truth), (6 + jump) / 7)
  np.testing.assert_allclose(measure.end_correlation(truth), 0.9**7)
  assert measure.end_correlation(cut) == 0.0 and measure.mean_variance(cut) == 1.0
  order = measure.convergence_order([1.0, 0.25, 1 / 16], [8, 16, 32])
  np.testing.assert_allclose(order, 2.0)


@functools.cache
def compiled(sampler, process, world):
  denoise = world.denoiser(process)
  return jax.jit(lambda x, key, ts: sampler(denoise, process, x, ts, None, key))


def run(sampler, process, ts, world=WORLD, num_steps=0):
  """(noise, key) -> videos; steps beyond those of the grid change nothing."""
  ts = np.pad(ts, (0, max(num_steps + 1 - len(ts), 0)))
  return lambda x, key: compiled(sampler, process, world)(x, key, ts)


def test_eulers_error_is_known_to_three_digits():
  """64 frames with a scene; doubled steps leave about a fourth."""
  truth = 0.7 * correlation(64) + 0.3
  # Of an independent implementation.
  for n, known in ((8, 0.0612), (64, 0.00117), *suite.only_complete((16, 0.0169))):
    sample = run(euler.euler, FLOW, times.uniform_grid(FLOW, num_steps=n), SCENE, 64)
    cov = measure.covariance(measure.sampler_affine_map(sample, 64)[0])
    out = measure.squared_wasserstein_per_frame(cov, truth)
    np.testing.assert_allclose(out, known, rtol=6e-3)


@pytest.mark.parametrize(
  ("sampler", "num_steps"),
  [
    (ancestral.ancestral, 48),
    *suite.only_complete(
      (functools.partial(ddim.ddim, eta=1.0), 48), (dpm_solver.dpm_solver_sde, 48)
    ),
  ],
)
def test_samplers_that_draw_noise_are_pushed_through_too(sampler, num_steps):
  """Every noise of every step is a column; the mean is exact as well."""
  world = gaussian.GaussianVideo(WORLD.kernel, mean=0.5)
  # The start is noise alone: alpha 0.5 is missing in it, and small in EDM.
  process = p.EDM()
  left = {}
  for n in (num_steps // 2, num_steps):
    ts = times.karras_grid(process, num_steps=n)
    sample = run(sampler, process, ts, world, num_steps)
    scaled = lambda x, key, sample=sample: sample(80.0 * x, key)
    jacobian, mean = measure.sampler_affine_map(scaled, 8, num_steps=num_steps)
    assert jacobian.shape == (8, 8 * (num_steps + 1))
    cov = measure.covariance(jacobian)
    left[n] = measure.squared_wasserstein_per_frame(cov, correlation(8), mean, 0.5)
  assert left[num_steps] < 0.6 * left[num_steps // 2] < 0.02, left


def test_a_sampler_that_wants_noise_is_refused_where_none_is_recorded():
  ts = times.uniform_grid(FLOW, num_steps=4)
  with pytest.raises(ValueError, match="recorded noise is None"):
    measure.sampler_affine_map(run(ancestral.ancestral, FLOW, ts), 4)


def test_good_solvers_beat_euler_at_the_same_cost():
  """32 calls: the order of what they leave of 32 frames is the order of the methods."""
  left = {}
  for name, sampler, n in (
    ("euler", euler.euler, 32),
    ("unipc", unipc.unipc, 32),
    *suite.only_complete(
      ("heun", heun.heun, 16), ("dpm_solver", dpm_solver.dpm_solver, 32)
    ),
  ):
    ts = times.uniform_grid(FLOW, num_steps=n)
    cov = measure.covariance(measure.sampler_affine_map(run(sampler, FLOW, ts), 32)[0])
    left[name] = measure.squared_wasserstein_per_frame(cov, correlation(32))
  assert sorted(left.values())[-2] < 0.2 * left["euler"], left
