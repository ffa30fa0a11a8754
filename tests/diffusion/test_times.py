"""Training times have their distributions, grids their published values."""

import functools

import jax
import numpy as np
import pytest
from scipy.special import ndtr

from tests.support import golden_files
from tests.support.refusals import refused
from vdm_jax.diffusion import process as p
from vdm_jax.diffusion import times

N = 20_000
KEY = jax.random.key(0)


def close(samples, cdf):
  """Kolmogorov's distance of the samples from a distribution is that of chance."""
  x = np.sort(np.asarray(samples).ravel())
  distance = np.abs(np.arange(1, x.size + 1) / x.size - cdf(x)).max()
  return distance < 2.0 / np.sqrt(x.size)


FIELDS = [{}, dict(mean=0.7, std=1.6), dict(mean=1.0, std=1.6)]


@pytest.fixture(scope="module")
def drawn():
  """{name: N training times of [0, 1], or of EDM}, from the same random numbers."""
  flow, ddpm, normal = p.Flow(), p.DDPM(), times.logit_normal

  @functools.partial(jax.jit, static_argnums=1)
  def run(*args):
    return {
      "uniform": times.uniform(flow, *args),
      "uniform, ddpm": times.uniform(ddpm, *args) / 1000,
      "steps": times.uniform_steps(ddpm, *args),
      "logit-normal": normal(flow, *args, mean=0.5, std=1.5),
      "logit-normal, ddpm": normal(ddpm, *args) / 1000,
      "lognormal": [times.lognormal(p.EDM(700.0), *args, **more) for more in FIELDS],
      "short": times.lognormal(p.EDM(0.3), *args),
      "shifted": times.shifted(flow, *args, shift=3.0),
      "shifted, ddpm": times.shifted(ddpm, *args, base=normal, shift=3.0) / 1000,
    }

  return jax.tree.map(np.asarray, run(KEY, (N, 1)))


def test_uniform_is_uniform_and_never_zero(drawn):
  for t in (drawn["uniform"], drawn["uniform, ddpm"]):
    assert t.shape == (N, 1) and t.min() > 0 and t.max() <= 1
    assert close(t, lambda x: x) and not close(t, lambda x: x**1.1)


def test_uniform_steps_are_the_thousand_indices(drawn):
  t = drawn["steps"]
  assert set(np.unique(t)) <= set(range(1, 1001))
  assert t.min() == 1 and t.max() == 1000
  assert close(t, lambda x: x / 1000)


def test_stratified_covers_the_range_in_every_batch():
  draw = functools.partial(times.stratified, p.Flow())
  t = np.asarray(jax.jit(lambda key: draw(key, (64, 1)))(KEY))
  assert t.shape == (64, 1)
  counts, _ = np.histogram(t, bins=32, range=(0, 1))
  assert counts.min() >= 1 and counts.max() <= 3  # independent draws leave holes
  assert not (np.diff(t[:, 0]) < 0).all()  # shuffled over the examples
  one = jax.vmap(lambda k: draw(k, (4, 1))[0])
  assert close(jax.jit(one)(jax.random.split(KEY, 4000)), lambda x: x)


def test_logit_normal_has_its_quantiles(drawn):
  t = drawn["logit-normal"]
  assert close(np.log(t) - np.log1p(-t), lambda x: ndtr((x - 0.5) / 1.5))
  assert not close(np.log(t) - np.log1p(-t), ndtr)


def test_lognormal_is_edms_or_svds(drawn):
  for t, fields in zip(drawn["lognormal"], FIELDS, strict=True):
    off, std = np.log(t) - fields.get("mean", -1.2), fields.get("std", 1.2)
    assert close(off / std, ndtr) and not close((off - 0.1) / std, ndtr)
  assert drawn["short"].max() == np.float32(0.3)


def test_shifted_times_are_the_base_shifted(drawn):
  base, t = drawn["logit-normal, ddpm"], drawn["shifted, ddpm"]
  np.testing.assert_allclose(t, 3 * base / (1 + 2 * base), rtol=1e-5)
  # A shift adds log(shift) to the log of sigma / alpha, on the flow process.
  odds = lambda t: np.log(t) - np.log1p(-t)
  t, u = drawn["shifted"], drawn["uniform"]
  inner = (u > 0.01) & (u < 0.99)
  np.testing.assert_allclose(odds(t)[inner], odds(u)[inner] + np.log(3), atol=1e-3)


def test_shift_has_open_soras_values():
  # Open-Sora 1.2: 256 x 256 images (ratio 0.5) at t = 50 and 100 of 1000.
  shifted = times.shift_times(np.array([0.05, 0.1]), 0.5)
  np.testing.assert_allclose(1000 * shifted, [25.641026, 52.63158], rtol=1e-6)
  # Open-Sora 2.0: 50 steps with shift 5.
  grid = times.shifted_grid(p.Flow(), num_steps=50, shift=5.0)
  np.testing.assert_allclose(grid[:4], [1, 0.99593496, 0.99173546, 0.98739487])


def test_karras_has_svds_values():
  process = p.EDM(t_max=700.0, sigma_data=1.0)
  grid = times.karras_grid(process, num_steps=25)
  expected = [700.0001, 545.7295, 421.56912, 322.45377]
  np.testing.assert_allclose(grid[:4], expected, rtol=2e-6)
  np.testing.assert_allclose(grid[-2:], [0.002, 0.0], rtol=1e-5)


def test_ddpm_spacings_are_the_originals():
  _, golden = golden_files.read("latte_diffusion")
  indices = lambda grid: grid[-2::-1] - 1  # rising, t = k + 1
  for n in (50, 250):
    ours = indices(times.respaced_grid(p.DDPM(), num_steps=n))
    np.testing.assert_array_equal(ours, golden[f"out_timesteps_{n}"])
  for n in (25, 50):
    ours = indices(times.leading_grid(p.DDPM(), num_steps=n))
    np.testing.assert_array_equal(ours, golden[f"out_timesteps_ddim{n}"])
  # Stable Diffusion's DDIM: 1, 21 .. 981.
  ours = indices(times.leading_grid(p.DDPM(), num_steps=50, offset=1))
  np.testing.assert_array_equal(ours, np.arange(1, 1000, 20))
  # Those of diffusers: pretrained/schedulers/test_trajectories.py.


def test_respacing_rounds_as_guided_diffusion_does():
  """By sums of strides, which puts 13 strides of 399 / 26 below 199.5."""
  indices = lambda grid: (grid[-2::-1] - 1).astype(int).tolist()
  of = lambda steps, n: indices(
    times.respaced_grid(p.DDPM(num_steps=steps), num_steps=n)
  )
  assert of(400, 27)[13] == 199
  by_products = lambda n: [round(i * (999 / (n - 1))) for i in range(n)]
  assert sum(of(1000, n) != by_products(n) for n in range(2, 1001)) == 278
  # Sections of 300 steps, as its own docstring has them: 10, 15 and 20 of 100 each.
  sections = of(300, "10,15,20")
  assert [sum(100 * i <= k < 100 * i + 100 for k in sections) for i in range(3)] == [
    *(10, 15, 20)
  ]
  assert sections[:3] == [0, 11, 22] and sections[10] == 100 and sections[-1] == 299
  assert of(301, "1,1,1") == [0, 101, 201]  # the first section has one more
  assert of(1000, "ddim30") == list(range(0, 1000, 34))  # 30 does not divide 1000
  assert of(1000, "ddim50") == list(range(0, 1000, 20)) and of(1000, 1) == [0]


GRIDS = [
  (p.Flow(), times.uniform_grid),
  (p.DDPM(), times.uniform_grid),
  (p.Flow(), functools.partial(times.shifted_grid, shift=0.3)),
  (p.EDM(), times.karras_grid),
  (p.DDPM(), times.respaced_grid),
  (p.DDPM(), times.trailing_grid),
]


@pytest.mark.parametrize(("process", "grid"), GRIDS)
def test_grids_fall_from_the_noise_to_the_data(process, grid):
  for n in (2, 7, 100):
    ts = grid(process, num_steps=n)
    assert ts.shape == (n + 1,) and ts.dtype == np.float32
    np.testing.assert_allclose(ts[0], process.t_max, rtol=1e-6)
    assert ts[-1] == 0 and (np.diff(ts) < 0).all()


def test_what_a_process_does_not_have_is_refused():
  ddpm, flow = p.DDPM(), p.Flow()
  calls = {
    "at least 1 step": lambda: times.uniform_grid(flow, num_steps=0),
    "No stride over 1000 steps": lambda: times.respaced_grid(ddpm, num_steps="ddim501"),
    "leaves 1 to 500": lambda: times.respaced_grid(ddpm, num_steps="501,1"),
    "leaves 1 to 1000": lambda: times.respaced_grid(ddpm, num_steps=1001),
    "apart move by 0 to 19": lambda: times.leading_grid(ddpm, num_steps=50, offset=20),
    "has 1000": lambda: times.trailing_grid(ddpm, num_steps=1001),
    "DDPM only": lambda: times.uniform_steps(flow, KEY, (2, 1)),
    "DDPM only, got Flow": lambda: times.respaced_grid(flow, num_steps=10),
    "lognormal.*EDM only": lambda: times.lognormal(flow, KEY, (2, 1)),
    "karras_grid.*EDM only": lambda: times.karras_grid(p.Cosine(), num_steps=25),
    "must be positive": lambda: times.shift_times(np.ones(1), 0.0),
  }
  refused(ValueError, calls)
