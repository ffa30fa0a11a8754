"""The denoiser of a network, and wrappers from denoiser to denoiser.

  denoise(x_t, t, cond) -> Denoised(x0)        x_t [B, T, H, W, C], t [B, T]

is all that a sampler knows. Wrappers `(denoise, null, **hyper) -> denoise` add known
frames, windows over a long video ... (guidance: diffusion/guidance.py); a config lists
those it needs, innermost first. `null` is the Conditioning in which every signal is
empty. Mixing estimates of x0 is mixing eps or v (they are affine in x0 with the same
coefficients), so no wrapper knows the prediction.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np

from vdm_jax import conditioning
from vdm_jax.diffusion import caching, variance
from vdm_jax.diffusion import process as p


@flax.struct.dataclass
class Denoised:
  """A denoiser's estimate of the clean video.

  Attributes:
    x0: [B, T, H, W, C] its mean.
    variance_fraction: [B, T, H, W, C], the reverse step's log variance in its bounds,
      from the posterior's (0) to beta (1); None without a learned variance.
    kept: nested dict of arrays that the network stores for later calls (step cache);
      None for samplers and wrappers.
  """

  x0: jax.Array
  variance_fraction: jax.Array | None = None
  kept: Any = None


@dataclasses.dataclass(frozen=True)
class NetworkDenoiser:
  """A denoiser (x_t [B, T, H, W, C], t [B, T], cond) -> Denoised: a network's output.

  Attributes:
    apply: (x, t, cond) -> output [B, T, H, W, C or 2 C]; with a step cache (x, t, cond,
      cache, keep) -> (output, kept).
    process: forward process, which gives alpha and sigma of t.
    prediction: what the output is: "x0", "eps", "v", "velocity" or "edm".
  """

  apply: Callable
  process: Any
  prediction: str

  def __call__(self, x_t, t, cond, cache=None, keep=()):
    inputs, kept = self.process.network_inputs(x_t, t), None
    if cache is None:
      out = self.apply(*inputs, cond)
    else:
      out, kept = self.apply(*inputs, cond, cache, keep)
    out, fraction = variance.split_prediction_and_variance_fraction(
      out.astype(x_t.dtype), x_t.shape[-1]
    )
    if out.shape != x_t.shape:
      raise ValueError(f"The network returned {out.shape}, expected {x_t.shape}.")
    x0 = p.x0_from_output(self.process, self.prediction, x_t, out, t)
    return Denoised(x0, fraction, kept)


def from_network(apply, process, prediction):
  """Returns a network's denoiser (x_t [B, T, H, W, C], t [B, T], cond) -> Denoised.

  Args:
    apply: (x, t, cond) -> output [B, T, H, W, C], or 2 C with a learned variance.
    process: forward process, which gives alpha and sigma of t.
    prediction: what the output is: "x0", "eps", "v", "velocity" or "edm".
  """
  p.check_prediction(prediction, process)
  return NetworkDenoiser(apply, process, prediction)


def cached(denoise, null, *, plan, on_update=None):
  """Returns a CachedDenoiserFactory: parts of the network computed in some steps only.

  Samplers take it as a denoiser; to call it directly is a ValueError.

  Args:
    denoise: a NetworkDenoiser (innermost of all wrappers); `null` is not used.
    plan: times [calls] -> a caching.CacheMode for each call, e.g. `caching.mag_cache`
      or `caching.pyramid_attention_broadcast` with its settings.
    on_update: (index of the call, old cache, new cache) -> None, for each call that
      replaces what was stored; None: not called.
  """
  del null
  if not isinstance(denoise, NetworkDenoiser):
    raise ValueError(
      f"`cached` needs the denoiser of a network and wraps {denoise}; name it first "
      "among the wrappers."
    )
  return caching.CachedDenoiserFactory(denoise, plan, on_update)


def apply_wrappers(denoise, wrappers, null):
  """Returns a denoiser (x_t [B, T, H, W, C], t [B, T], cond) -> Denoised: all wrapped.

  Args:
    denoise: the innermost denoiser, of the same signature.
    wrappers: functions (denoise, null) -> denoise, innermost first.
    null: the Conditioning in which every signal is empty.
  """
  for wrap in wrappers:
    if isinstance(denoise, caching.CachedDenoiserFactory):
      denoise = denoise.with_wrapper(wrap, null)
    else:
      denoise = wrap(denoise, null)
  return denoise


def hold_known(denoise, null, *, noisy_known=None):
  """Returns a denoiser (x_t [B, T, H, W, C], t [B, T], cond) -> Denoised.

  It holds the frames of `cond.mask` at `cond.known`, at time 0, in its input x_t and in
  its estimate of x0, as diffusion forcing does.

  Args:
    denoise: the denoiser that it calls, of the same signature; `null` is not used.
    noisy_known: cond -> [B, T, H, W, C], known frames with noise, for the input only;
      None: they are clean.
  """
  del null

  def held(x_t, t, cond):
    if cond.mask is None or cond.known is None:
      raise ValueError(
        "The wrapper `hold_known` needs cond.mask and cond.known; pass both to sample, "
        "or leave the wrapper out."
      )
    known = cond.known if noisy_known is None else noisy_known(cond)
    x_t = jnp.where(cond.mask, known, x_t)
    t = jnp.where(cond.mask[..., 0, 0, 0], 0.0, t)
    estimate = denoise(x_t, t, cond.replace(known=known))
    return estimate.replace(x0=jnp.where(cond.mask, cond.known, estimate.x0))

  return held


def replace_known(denoise, null):
  """Returns a denoiser (x_t [B, T, H, W, C], t [B, T], cond) -> Denoised.

  Its x0 is that of `denoise`, and `cond.known` where `cond.mask` is True: known frames
  for a network with one noise level per clip, noised as the others are ("replacement",
  https://arxiv.org/abs/2204.03458, which shows why it leaves seams). Start them at
  alpha known + sigma eps. `null` is not used.
  """
  del null

  def replaced(x_t, t, cond):
    estimate = denoise(x_t, t, cond)
    return estimate.replace(x0=jnp.where(cond.mask, cond.known, estimate.x0))

  return replaced


def edit_x0(denoise, null, *, fn, below):
  """Returns a denoiser (x_t [B, T, H, W, C], t [B, T], cond) -> Denoised.

  Its x0 is fn(x0) of that of `denoise` while t < below: clipping, smoothing.

  Args:
    denoise: the denoiser that it calls, of the same signature; `null` is not used.
    fn: x0 [B, T, H, W, C] -> array of that shape, such as `clip_x0`.
    below: a time; with jnp.inf, `fn` is always applied.
  """
  del null

  def smoothed(x_t, t, cond):
    estimate = denoise(x_t, t, cond)
    return estimate.replace(
      x0=jnp.where(p.expand(t) < below, fn(estimate.x0), estimate.x0)
    )

  return smoothed


def clip_x0(x0, *, bound):
  """x0, of any shape, clipped to [-bound, bound]: DDPM's clipping of images."""
  return jnp.clip(x0, -bound, bound)


def dynamic_threshold(x0, *, ratio, max_bound):
  """x0 [B, T, H, W, C] clipped to a bound and divided by it, of the same shape.

  The bound is the quantile `ratio` (0 to 1) of |x0| over each clip, at least 1, at most
  `max_bound`. Dynamic thresholding, https://arxiv.org/abs/2205.11487, for `edit_x0`.
  """
  bound = jnp.quantile(jnp.abs(x0), ratio, axis=(1, 2, 3, 4), keepdims=True)
  bound = jnp.clip(bound, 1.0, max_bound)
  return jnp.clip(x0, -bound, bound) / bound


def uniform_weights(size):
  """Weights [size], all 1: a plain average where windows of frames overlap."""
  return np.ones(size)


def triangular_weights(size):
  """Weights [size] of a window's frames, largest in the middle, 1 at both ends."""
  return np.minimum(np.arange(1, size + 1), np.arange(size, 0, -1)).astype(float)


def windows(denoise, null, *, size, stride, weights=triangular_weights):
  """Returns a denoiser (x_t [B, T, H, W, C], t [B, T], cond) -> Denoised.

  Of long videos: the average of `denoise` over overlapping windows of frames,

    x0[i] = sum over windows w that hold i of g_w(i) d_w(i) / sum g_w(i)

  Gen-L-Video, https://arxiv.org/abs/2305.18264; FreeNoise averages with triangular
  weights, https://arxiv.org/abs/2310.15169. The last window ends with the video. A
  video of `size` frames or fewer is one window.

  Args:
    denoise: the denoiser of a window, of the same signature; `null` is not used.
    size: number of frames in a window.
    stride: frames from one window to the next, 1 .. size.
    weights: size -> [size], the weight g of each frame of a window.
  """
  del null
  if not 1 <= stride <= size:
    raise ValueError(f"stride={stride}; windows of {size} frames take 1 to {size}.")

  def windowed(x_t, t, cond):
    num_frames = x_t.shape[1]
    if num_frames <= size:
      return denoise(x_t, t, cond)
    x_t, t, last = jnp.asarray(x_t), jnp.asarray(t), num_frames - size
    starts = np.array([*range(0, last, stride), last])
    g = jnp.asarray(weights(size), x_t.dtype)

    def add(sums, start):
      index = start + jnp.arange(size)
      part = denoise(x_t[:, index], t[:, index], _take(cond, index))
      put = lambda old, new: old.at[:, index].add(p.expand(g[None]) * new)
      return jax.tree.map(put, sums, part), None

    sums, _ = jax.lax.scan(add, _nothing(denoise, x_t, t, cond, size), starts)
    total = np.zeros(num_frames)
    for start in starts:
      total[start : start + size] += weights(size)
    total = p.expand(jnp.asarray(total, x_t.dtype)[None])
    return jax.tree.map(lambda x: x / total, sums)

  return windowed


def fifo_windows(denoise, null, *, window, in_flight, look_ahead=False):
  """Returns a denoiser (x_t [B, T, H, W, C], t [B, T], cond) -> Denoised.

  FIFO-Diffusion, of long videos whose times are those of `schedules.fifo`. The frames
  that are being denoised are neighbours, each a step noisier than the one before it.
  Windows of `window` frames split them (latent partitioning). With lookahead denoising
  windows overlap by half and a frame's estimate is that of the noisier half, after
  cleaner frames: twice the cost. https://arxiv.org/abs/2405.11473.

  Args:
    denoise: the denoiser of a window, of the same signature; `null` is not used.
    window: number of frames in a window; even for lookahead denoising.
    in_flight: number of frames being denoised, a multiple of `window`: the number of
      steps of the schedule's grid.
    look_ahead: whether lookahead denoising is used.
  """
  del null
  if in_flight % window or (look_ahead and window % 2):
    raise ValueError(
      f"in_flight={in_flight} must be a multiple of window={window}, and window even "
      "to look ahead."
    )
  stride = window // 2 if look_ahead else window
  ahead = window - stride  # cleaner frames in front of the first in flight
  offsets = range(0, in_flight + ahead - window + 1, stride)

  def windowed(x_t, t, cond):
    num_frames = x_t.shape[1]
    if num_frames < in_flight + ahead:
      raise ValueError(
        f"{in_flight + ahead} frames in flight do not fit in a video of {num_frames}; "
        "make the video longer, or the grid and in_flight shorter."
      )
    x_t, t = jnp.asarray(x_t), jnp.asarray(t)
    first = jnp.argmax(t[0] > 0.0)  # not yet done
    start = jnp.clip(first - ahead, 0, num_frames - in_flight - ahead)
    estimate = _nothing(denoise, x_t, t, cond, window)
    for k, offset in enumerate(offsets):
      index = start + offset + jnp.arange(window)
      part = denoise(x_t[:, index], t[:, index], _take(cond, index))
      keep = slice(0 if k == 0 else ahead, window)
      put = lambda old, new, i=index, s=keep: old.at[:, i[s]].set(new[:, s])
      estimate = jax.tree.map(put, estimate, part)
    return estimate

  return windowed


def _nothing(denoise, x_t, t, cond, size):
  """A Denoised of zeros for the whole video, with the fields of a window's."""
  index = np.arange(size)
  like = jax.eval_shape(denoise, x_t[:, index], t[:, index], _take(cond, index))
  whole = lambda x: jnp.zeros((x.shape[0], x_t.shape[1], *x.shape[2:]), x.dtype)
  return jax.tree.map(whole, like)


def _take(cond, index):
  return None if cond is None else conditioning.take_frames(cond, index)
