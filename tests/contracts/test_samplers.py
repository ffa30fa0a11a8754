"""Every sampler, held to the contract: a new one adds a line to SAMPLERS.

Where every latent is N(MEAN, STD^2) the best denoiser is known in closed form, so a
sampler must end at that mean and that deviation, whatever the process and whatever
the network predicts.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support import drawn, suite
from vdm_jax.diffusion import caching, times
from vdm_jax.diffusion import denoise as d
from vdm_jax.diffusion import process as p
from vdm_jax.diffusion.samplers import ancestral, ddim, dpm_solver, euler, heun, unipc

pytestmark = pytest.mark.usefixtures("unoptimized")

# The sampler, and the steps it needs. Drawing noise anew loses a little of the
# deviation in each step, in proportion to its length; solvers in log SNR see a long
# last step in DDPM's grids.
SAMPLERS = {
  "ddim": (ddim.ddim, 80),
  "ddim with noise": (functools.partial(ddim.ddim, eta=1.0), 250),
  "ancestral": (ancestral.ancestral, 250),
  "euler": (euler.euler, 80),
  "heun": (heun.heun, 40),
  "dpm-solver": (dpm_solver.dpm_solver, 100),
  "dpm-solver-sde": (dpm_solver.dpm_solver_sde, 200),
  "unipc": (unipc.unipc, 100),
}
PROCESSES = {
  "ddpm-linear": (p.DDPM(), times.respaced_grid),
  "ddpm-scaled-linear": (p.DDPM(schedule="scaled_linear"), times.uniform_grid),
  "ddpm-squaredcos": (p.DDPM(schedule="squaredcos"), times.uniform_grid),
  "cosine": (p.Cosine(), times.uniform_grid),
  "flow": (p.Flow(), times.uniform_grid),
  "shifted-flow": (p.Flow(), functools.partial(times.shifted_grid, shift=3.0)),
  "edm": (p.EDM(), times.karras_grid),
}
MEAN, STD = 1.5, 0.5
KEY = jax.random.key(9)
SHAPE = (4, 4, 8, 8, 4)
each_sampler = pytest.mark.parametrize("kind", SAMPLERS)


def gaussian(process, prediction, mean=MEAN, std=STD):
  """The exact network for N(mean, std^2), as a denoiser."""

  def denoise(x_t, t, cond):
    alpha, sigma = (p.expand(c) for c in process.alpha_sigma(t))
    total = alpha**2 * std**2 + sigma**2
    x0 = (alpha * std**2 * x_t + sigma**2 * mean) / total
    eps = sigma * (x_t - alpha * mean) / total
    out = p.mix(p.prediction_coefficients(prediction, process, t), x0, eps)
    apply = lambda x, t, cond: out
    return d.from_network(apply, process, prediction)(x_t, t, cond)

  return denoise


# In the quick suite: Flow with each sampler, every process with DDIM, EDM of every
# prediction, "v" of the others. Recorded trajectories, of all but Heun, are DDPM's.
HEUN = "heun", "ddpm-linear"
PAIRS = [
  (kind, name)
  for kind in SAMPLERS
  for name in PROCESSES
  if suite.is_complete() or name == "flow" or kind == "ddim" or (kind, name) == HEUN
]


@pytest.mark.parametrize(("kind", "name"), PAIRS)
def test_samplers_reach_the_data(kind, name):
  sampler, num_steps = SAMPLERS[kind]
  process, grid = PROCESSES[name]
  ts = grid(process, num_steps=num_steps)
  known = [k for k in p.PREDICTIONS if k != "edm" or hasattr(process, "sigma_data")]
  known = known if suite.is_complete() or name == "edm" else ["v"]
  networks = [gaussian(process, prediction) for prediction in known]

  def denoise(x_t, t, cond):
    """A part of the batch for each prediction: one loop to compile for all."""
    parts = [*map(lambda x: jnp.split(x, len(known)), (x_t, t))]
    parts = zip(networks, *parts, strict=True)
    return d.Denoised(jnp.concatenate([n(x, t, cond).x0 for n, x, t in parts]))

  @jax.jit
  def run(noise):
    """From videos of the data, noised to the first time of the grid."""
    alpha, sigma = process.alpha_sigma(ts[:1])
    x = alpha * MEAN + jnp.sqrt(alpha**2 * STD**2 + sigma**2) * noise
    return sampler(denoise, process, x, ts, None, jax.random.key(1))

  noise = drawn.normal(len(known) * SHAPE[0], *SHAPE[1:])
  out = np.split(np.asarray(run(noise)), len(known))
  for prediction, part in zip(known, out, strict=True):
    assert part.shape == SHAPE
    np.testing.assert_allclose(part.mean(), MEAN, atol=0.03, err_msg=prediction)
    np.testing.assert_allclose(part.std(), STD, atol=0.03, err_msg=prediction)


flow = p.Flow()
GRID = times.uniform_grid(flow, num_steps=5)
X, X0 = drawn.normal(2, 2, 3, 2, 2, 1, seed=2)


@functools.cache
def run(kind, name):
  """From X by a grid [6] or [6, 3], of a network that close to 0 says X0."""
  sampler, (process, _) = SAMPLERS[kind][0], PROCESSES[name]

  def denoise(x_t, t, cond):
    u = p.expand(t) / process.t_max
    return d.Denoised(jnp.where(u < 0.25, X0, jnp.tanh(x_t) + u))

  compiled = jax.jit(lambda ts: sampler(denoise, process, X, ts, None, KEY))
  return lambda ts: np.asarray(compiled(ts))


@pytest.mark.parametrize(
  "kind", suite.choose(SAMPLERS, "ddim with noise", "dpm-solver", "unipc")
)
def test_a_matrix_of_equal_columns_is_the_grid_to_the_bit(kind):
  ts = 0.5 + 0.5 * GRID
  sample = run(kind, "flow")
  np.testing.assert_array_equal(sample(ts), sample(np.repeat(ts[:, None], 3, axis=1)))
  assert not np.array_equal(sample(ts), sample(np.stack([ts, ts, ts**2], axis=1)))


@each_sampler
def test_frames_that_wait_or_are_done_do_not_change(kind):
  out = run(kind, "flow")(np.stack([GRID, 0 * GRID, 0 * GRID + 0.7], axis=1))
  np.testing.assert_array_equal(out[:, 1:], X[:, 1:])
  assert not np.isclose(out[:, 0], X[:, 0]).all()


@each_sampler
def test_the_last_step_returns_the_estimate_itself(kind):
  for name in ("flow", *suite.only_complete("ddpm-linear", "edm")):
    ts = PROCESSES[name][0].t_max * np.repeat(GRID[:, None], 3, axis=1)
    np.testing.assert_array_equal(run(kind, name)(ts), X0)


def bent(x, t, cond, cache=None, keep=()):
  """A network of two parts, either of which a step cache may hold."""
  held = cache or {}
  parts = {
    "spatial": lambda: jnp.sin(3.0 * x),
    "temporal": lambda: jnp.cos(x) * p.expand(t) / 1000,
  }
  parts = {k: held[(k,)] if (k,) in held else part() for k, part in parts.items()}
  out = 0.3 * x - parts["spatial"] + parts["temporal"]
  return out if cache is None else (out, {k: parts[k] for k in keep})


class Remembers:
  """The same with a memory of its own, which works where no loop is compiled."""

  def __init__(self, plan, times):
    self.modes, self.cache = iter(plan(times)), {}

  def __call__(self, x_t, t, cond):
    mode = next(self.modes)
    held = {path: x for path, x in self.cache.items() if path[0] in mode.reuse}
    network = d.from_network(bent, flow, "velocity")
    estimate = network(x_t, t, cond, cache=held, keep=mode.keep)
    self.cache |= {(k,): x for k, x in estimate.kept.items()}
    return estimate


@pytest.mark.parametrize(
  "name", suite.choose(SAMPLERS, "ddim with noise", "heun", "unipc")
)
def test_a_step_cache_lives_through_the_loop(name):
  """Four steps, in which each part and both are kept; Heun calls twice in each."""
  sampler, _ = SAMPLERS[name]
  ts = times.uniform_grid(flow, num_steps=4)
  plan = functools.partial(
    caching.pyramid_attention_broadcast, spatial=2, temporal=3, window=(50, 950)
  )
  network = d.from_network(bent, flow, "velocity")
  cached = d.apply_wrappers(network, (functools.partial(d.cached, plan=plan),), None)
  calls = 2 if sampler is heun.heun else 1
  seen = np.array([ts[i + k] for i in range(4) for k in range(calls)])

  @jax.jit
  def both_ways(x):
    sample = lambda denoise: sampler(denoise, flow, x, ts, None, KEY)
    with jax.disable_jit():  # the loop, step by step
      expected = sample(Remembers(plan, 1000.0 * seen))
    return sample(cached), sample(network), expected

  out, plain, expected = map(np.asarray, both_ways(X))
  np.testing.assert_allclose(out, expected, atol=2e-4)
  assert np.abs(plain - out).max() > 0.02


@each_sampler
def test_a_wrong_grid_is_refused(kind):
  for ts in (np.zeros(1), np.zeros((5, 2)), np.zeros((5, 1, 3))):
    with pytest.raises(ValueError, match=r"expected \[S \+ 1\]"):
      SAMPLERS[kind][0](None, flow, X, ts, None, KEY)
