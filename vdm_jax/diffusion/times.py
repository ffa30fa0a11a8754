"""Times that a network is trained at, and grids of times that a sampler visits.

Training: a distribution `times(process, key, shape) -> t`, with t in (0, t_max].
Sampling: a grid `grid(process) -> ts [S + 1]`, falling from t_max to 0, float32. DDIM's
spacings have names: leading, trailing, linspace (diffusers') and respaced (DiT's).

Both are plain functions to `bind` in a config; `schedules` makes a matrix of a grid.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from vdm_jax.diffusion import process as p


def uniform(process, key, shape):
  """Training times of `shape`, uniform in (0, process.t_max]."""
  return process.t_max * (1.0 - jax.random.uniform(key, shape))


def uniform_steps(process, key, shape):
  """Training times of `shape`, uniform over the whole steps 1 .. t_max of a DDPM."""
  steps = jax.random.randint(key, shape, 0, _num_steps(process))
  return 1.0 + steps.astype(jnp.float32)


def stratified(process, key, shape):
  """Training times of `shape`, uniform in (0, process.t_max], spread over the batch.

  Each t is uniform, together they cover the range: the loss varies less from batch
  to batch. https://arxiv.org/abs/2107.00630, appendix I.1.
  """
  size = int(np.prod(shape))
  k_offset, k_order = jax.random.split(key)
  order = jax.random.permutation(k_order, size)
  level = (jax.random.uniform(k_offset) + order / size) % 1.0
  return process.t_max * (1.0 - level.reshape(shape))


def logit_normal(process, key, shape, *, mean=0.0, std=1.0):
  """Times of `shape` for training, t_max sigmoid(mean + std n), n normal: SD3's."""
  return process.t_max * jax.nn.sigmoid(mean + std * jax.random.normal(key, shape))


def lognormal(process, key, shape, *, mean=-1.2, std=1.2):
  """EDM's training times of `shape`, exp(mean + std n), n normal, at most t_max.

  Raises:
    ValueError: `process` is not EDM.
  """
  _is_edm(process, "lognormal")
  t = jnp.exp(mean + std * jax.random.normal(key, shape))
  return jnp.minimum(t, process.t_max)


def shifted(process, key, shape, *, base=uniform, shift=1.0):
  """Training times of `shape`, drawn by `base` and moved: noisier for a shift s > 1.

  u -> s u / (1 + (s - 1) u) for u = t / t_max, https://arxiv.org/abs/2403.03206; `base`
  is another distribution, (process, key, shape) -> t.
  """
  return process.t_max * shift_times(base(process, key, shape) / process.t_max, shift)


def shift_times(u, shift):
  """Times s u / (1 + (s - 1) u) for u in [0, 1], of u's shape; noisier for shift s > 1.

  Equation 23 of https://arxiv.org/abs/2403.03206.
  """
  if shift <= 0:
    raise ValueError(f"shift={shift}; it must be positive, and 1 shifts nothing.")
  return shift * u / (1.0 + (shift - 1.0) * u)


def uniform_grid(process, *, num_steps):
  """Sampling times [num_steps + 1], float32, evenly spaced from t_max to 0."""
  return _grid(process.t_max * np.linspace(1.0, 0.0, _positive(num_steps) + 1))


def shifted_grid(process, *, num_steps, shift):
  """Sampling times [num_steps + 1], float32, from t_max to 0, denser near the noise.

  s u / (1 + (s - 1) u) of even times u = t / t_max, for s = shift > 1.
  """
  u = np.linspace(1.0, 0.0, _positive(num_steps) + 1)
  return _grid(process.t_max * shift_times(u, shift))


def karras_grid(process, *, num_steps, sigma_min=0.002, rho=7.0):
  """EDM's sampling times (sigmas) [num_steps + 1], float32, from t_max to sigma_min, 0.

  Even in sigma^(1 / rho). Equation 5 of https://arxiv.org/abs/2206.00364. A ValueError
  if `process` is not EDM.
  """
  _is_edm(process, "karras_grid")
  ends = process.t_max ** (1 / rho), sigma_min ** (1 / rho)
  return _grid([*np.linspace(*ends, _positive(num_steps)) ** rho, 0.0])


def respaced_grid(process, *, num_steps):
  """DDPM's sampling times t = k + 1, k = 999, 979 .. 20, 0 for 50 steps, even, then 0.

  [S + 1], float32. The spacing of improved DDPM, DiT and Latte, with its rounding:
  space_timesteps in guided_diffusion/respace.py.

  Args:
    num_steps: S; or steps of each of several equal parts of the process, from its data
      end on, "10,15,20"; or "ddim50" for DDIM's stride that gives 50 steps.
  """
  count = _num_steps(process)
  if isinstance(num_steps, str) and num_steps.startswith("ddim"):
    k = _strided(count, int(num_steps.removeprefix("ddim")))
  else:
    parts = num_steps.split(",") if isinstance(num_steps, str) else [num_steps]
    k = _sections(count, list(map(int, parts)))
  return _grid([*(i + 1 for i in reversed(k)), 0])


def _strided(count, num_steps):
  """Every s-th of `count` steps, for the least s that gives `num_steps`."""
  for stride in range(1, count):
    if len(range(0, count, stride)) == num_steps:
      return range(0, count, stride)
  raise ValueError(f"No stride over {count} steps gives ddim{num_steps}.")


def _sections(count, parts):
  """Rising steps, so many of each of equal sections of `count`, spread over it."""
  found, begin = [], 0
  for i, size in enumerate(parts):
    end = begin + count // len(parts) + (i < count % len(parts))
    if not 1 <= size <= end - begin:
      raise ValueError(
        f"num_steps={size}; respacing {end - begin} steps leaves 1 to {end - begin}."
      )
    # The sum of strides and not a product: it decides what is rounded up.
    stride = (end - begin - 1) / (size - 1) if size > 1 else 1.0
    places = itertools.accumulate([0.0] + [stride] * (size - 1))
    found += [begin + round(place) for place in places]
    begin = end
  return found


def leading_grid(process, *, num_steps, offset=0):
  """DDPM's sampling times t = k + 1, k = 980, 960 .. 20, 0 for 50 steps, plus `offset`.

  [num_steps + 1], float32, the last one 0. DDIM's own spacing, diffusers' "leading";
  Stable Diffusion's has offset 1. It never visits the last steps.
  """
  stride = _num_steps(process) // _at_most(num_steps, process)
  if not 0 <= offset < stride:
    raise ValueError(
      f"offset={offset}; steps that are {stride} apart move by 0 to {stride - 1}."
    )
  return _grid([*(k * stride + offset + 1 for k in reversed(range(num_steps))), 0])


def trailing_grid(process, *, num_steps):
  """DDPM's sampling times t = k + 1, k = 999, 979 .. 19 for 50 steps.

  [num_steps + 1], float32, the last one 0. diffusers' "trailing"; right for few steps
  and for a terminal SNR of 0, https://arxiv.org/abs/2305.08891.
  """
  last = _num_steps(process)
  stride = last / _at_most(num_steps, process)
  k = np.round(np.arange(last, 0, -stride)) - 1
  return _grid([*(k[:num_steps] + 1), 0])


def linspace_grid(process, *, num_steps):
  """DDPM's sampling times t = k + 1, k = 999, 979 .. 20, 0 for 50 steps, even, then 0.

  [num_steps + 1], float32. diffusers' "linspace"; its DDIM leaves a step at
  t - 1000 // n, which is not where the next one begins; here it is.
  """
  last = _num_steps(process) - 1
  k = np.linspace(0, last, _at_most(num_steps, process)).round()[::-1]
  return _grid([*(k + 1), 0])


def _grid(ts):
  return np.asarray(ts, np.float32)


def _positive(num_steps):
  if num_steps < 1:
    raise ValueError(f"num_steps={num_steps}; a sampler takes at least 1 step.")
  return num_steps


def _at_most(num_steps, process):
  if _positive(num_steps) > _num_steps(process):
    raise ValueError(f"num_steps={num_steps}; the process has {_num_steps(process)}.")
  return num_steps


def _num_steps(process):
  if not hasattr(process, "num_steps"):
    raise ValueError(f"Whole steps exist for DDPM only, got {process}.")
  return process.num_steps


def _is_edm(process, name):
  if not isinstance(process, p.EDM):
    raise ValueError(
      f"{name} gives noise levels sigma, which are times for EDM only, got {process}."
    )
