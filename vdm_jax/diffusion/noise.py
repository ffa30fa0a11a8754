"""Initial noise of videos: [B, T, H, W, C], every frame standard normal.

`samplers.loop.noise_by_frame` draws frames independently; these correlate them, so that
frames are alike or a model of short clips stays consistent over a long video: `mixed`,
`progressive` and `free_noise` are functions (key, shape) -> noise. `free_init` is a
sampler: it starts again from the low frequencies of its own result.
"""

import jax
import jax.numpy as jnp
import numpy as np

from vdm_jax import keys
from vdm_jax.diffusion import process as p
from vdm_jax.diffusion.samplers import loop


def mixed(key, shape, *, fraction):
  """Initial noise [B, T, H, W, C] whose frames have correlation `fraction` in pairs.

  sqrt(fraction) times common noise + sqrt(1 - fraction) times each frame's own: "mixed"
  noise of PYoCo, https://arxiv.org/abs/2305.10474, fraction = alpha^2 / (1 + alpha^2).
  """
  _check_part("fraction", fraction)
  k_common, k_own = keys.split(key)
  common = loop.noise_by_frame(k_common, (shape[0], 1, *shape[2:]))
  own = loop.noise_by_frame(k_own, shape)
  return np.sqrt(fraction) * common + np.sqrt(1.0 - fraction) * own


def progressive(key, shape, *, correlation):
  """Initial noise [B, T, H, W, C]; frames i, j have correlation^|i - j|: PYoCo's."""
  _check_part("correlation", correlation)
  own = loop.noise_by_frame(key, shape)
  fresh = np.sqrt(1.0 - correlation**2)

  def step(before, eps):
    after = correlation * before + fresh * eps
    return after, after

  _, rest = jax.lax.scan(step, own[:, 0], own[:, 1:].swapaxes(0, 1))
  return jnp.concatenate([own[:, :1], rest.swapaxes(0, 1)], axis=1)


def free_noise(key, shape, *, window, stride):
  """FreeNoise's initial noise [B, T, H, W, C]: `window` frames, repeated and shuffled.

  Copies are shuffled `stride` frames at a time: equation 5 of
  https://arxiv.org/abs/2310.15169. Frames that share noise are about a window apart; a
  window of `denoise.windows` with the same size and stride has almost no frame twice.
  """
  num_frames = shape[1]
  first = loop.noise_by_frame(key, (shape[0], min(window, num_frames), *shape[2:]))
  of_key = lambda k: free_noise_order(k, num_frames, window, stride)
  if not jnp.ndim(key):
    return first[:, of_key(key)]
  return jax.vmap(lambda x, k: x[of_key(k)])(first, key)


def free_noise_order(key, num_frames, window, stride):
  """FreeNoise's order [T]: of each frame the one, below `window`, that it repeats."""
  if not 1 <= stride <= window:
    raise ValueError(
      f"stride={stride}; FreeNoise shuffles 1 to window={window} frames."
    )
  order = jnp.arange(max(window, num_frames))
  for start in range(window, num_frames, stride):
    k_start = jax.random.fold_in(key, start)
    part = jax.random.permutation(k_start, order[start - window :][:stride])
    order = order.at[start : start + stride].set(part[: num_frames - start])
  return order[:num_frames]


def free_init(
  denoise, process, x, ts, cond, key, *, sampler, iterations=3, cutoff=0.25, order=4
):
  """FreeInit, a sampler: x0 [B, T, H, W, C], sampled `iterations` times over.

    x_T' = low(alpha x0 + sigma eps) + high(sigma eps'),   eps the first noise, eps' new

  starts each from the low frequencies of the last result: what frames have in common
  is then already in the noise, as it is in training. Right for odd sizes as well.
  https://arxiv.org/abs/2312.07537.

  Args:
    denoise: (x_t, t [B, T], cond) -> Denoised, with field x0.
    process: forward process, which gives alpha and sigma of t.
    x: [B, T, H, W, C] sigma eps.
    ts: falling times [S + 1], or [S + 1, T] for each frame.
    cond, key: Conditioning for `denoise`; PRNG key.
    sampler: (denoise, process, x, ts, cond, key) -> x0.
    iterations: runs of the sampler.
    cutoff: of the Butterworth filter, as a share of the highest frequency, along time,
      height and width.
    order: of the Butterworth filter.
  """
  if iterations < 1:
    raise ValueError(f"iterations={iterations}; FreeInit samples at least once.")
  alpha, sigma = (
    p.expand(c[None])
    for c in process.alpha_sigma(loop.schedule_matrix(ts, x.shape[1])[0])
  )
  low = butterworth_gain(x.shape[1:4], cutoff, order)
  start = x
  for i in range(iterations):
    k_sampler, k_noise = keys.split(keys.fold_in(key, i))
    x0 = sampler(denoise, process, start, ts, cond, k_sampler)
    fresh = sigma * loop.noise_by_frame(k_noise, x.shape)
    start = fresh + filter_spectrum(alpha * x0 + x - fresh, low)
  return x0


def butterworth_gain(sizes, cutoff, order):
  """Low-pass gain of shape `sizes` (T, H, W), in fftn's order: 1 at 0, 1/2 at `cutoff`.

  `cutoff` is a share of the highest frequency, `order` the Butterworth filter's.
  """
  axes = np.meshgrid(*(2.0 * np.fft.fftfreq(n) for n in sizes), indexing="ij")
  return 1.0 / (1.0 + (sum(f**2 for f in axes) / cutoff**2) ** order)


def filter_spectrum(x, gain):
  """x [B, T, H, W, C], real, with its (T, H, W) spectrum times gain [T, H, W]."""
  axes = (1, 2, 3)
  out = jnp.fft.ifftn(jnp.fft.fftn(x, axes=axes) * gain[None, ..., None], axes=axes)
  return out.real.astype(x.dtype)


def _check_part(name, value):
  if not 0.0 <= value <= 1.0:
    raise ValueError(f"{name}={value} must be between 0 and 1.")
