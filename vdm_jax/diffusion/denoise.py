"""From a network to a denoiser, and from a denoiser to a denoiser.

  denoise(x_t, t, cond) -> Denoised(x0)        x_t [B, T, H, W, C], t [B, T]

is all that a sampler knows. Wrappers `(denoise, null, **hyper) -> denoise` add given
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
  """An estimate of the clean video.

  Attributes:
    x0: [B, T, H, W, C] its mean.
    fraction: the same shape, where the variance of the step back lies between its
      bounds (diffusion/variance.py), if the network says so.
    kept: what the network keeps for later calls (diffusion/caching.py); no sampler and
      no wrapper ever sees it.
  """

  x0: jax.Array
  fraction: jax.Array | None = None
  kept: Any = None


@dataclasses.dataclass(frozen=True)
class Network:
  """Reads a network's output as an estimate of x0.

  Attributes:
    apply: (x, t, cond) -> output; for `cached` also (x, t, cond, cache, keep) ->
      (output, kept), see diffusion/caching.py.
    process, prediction: see diffusion/process.py.
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
    out, fraction = variance.split(out.astype(x_t.dtype), x_t.shape[-1])
    if out.shape != x_t.shape:
      raise ValueError(f"The network returned {out.shape}, expected {x_t.shape}.")
    x0 = p.solve(self.process, self.prediction, x_t, out, t)
    return Denoised(x0, fraction, kept)


def from_network(apply, process, prediction):
  """The denoiser of a network. apply: (x, t, cond) -> output."""
  p.check(prediction, process)
  return Network(apply, process, prediction)


def cached(denoise, null, *, plan, watch=None):
  """Computes parts of the network in some steps only; the innermost of all wrappers.

  Args:
    plan: when, e.g. `caching.broadcast` or `caching.magnitude` with their settings.
    watch: see caching.Cached.
  """
  del null
  if not isinstance(denoise, Network):
    raise ValueError(
      f"`cached` looks into a network and was put around {denoise}; name it first "
      "among the wrappers."
    )
  return caching.Cached(denoise, plan, watch)


def chain(denoise, wrappers, null):
  """`denoise` in its wrappers, innermost first."""
  for wrap in wrappers:
    if isinstance(denoise, caching.Cached):
      denoise = denoise.wrapped(wrap, null)
    else:
      denoise = wrap(denoise, null)
  return denoise


def given(denoise, null, *, show=None):
  """Holds the frames that `cond.mask` marks at `cond.known`, at time 0.

  What the network sees of them is show(cond), of the shape of `cond.known`, if there is
  such: known frames with noise, see perturbation.py.
  """
  del null

  def held(x_t, t, cond):
    if cond.mask is None or cond.known is None:
      raise ValueError(
        "The wrapper `given` needs cond.mask and cond.known; pass both to sample, or "
        "leave the wrapper out."
      )
    seen = cond.known if show is None else show(cond)
    x_t = jnp.where(cond.mask, seen, x_t)
    t = jnp.where(cond.mask[..., 0, 0, 0], 0.0, t)
    estimate = denoise(x_t, t, cond.replace(known=seen))
    return estimate.replace(x0=jnp.where(cond.mask, cond.known, estimate.x0))

  return held


def replace(denoise, null):
  """Puts `cond.known` into the estimate where `cond.mask` says so, at the video's time.

  Given frames for a network that knows one noise level per clip: they travel with the
  others, noised as those are ("replacement", https://arxiv.org/abs/2204.03458, which
  shows why it leaves seams). Start them at alpha known + sigma eps.
  """
  del null

  def replaced(x_t, t, cond):
    estimate = denoise(x_t, t, cond)
    return estimate.replace(x0=jnp.where(cond.mask, cond.known, estimate.x0))

  return replaced


def smooth(denoise, null, *, fn, below):
  """Edits the estimate of x0 by `fn` while t < below: interpolation, clipping ..."""
  del null

  def smoothed(x_t, t, cond):
    estimate = denoise(x_t, t, cond)
    return estimate.replace(
      x0=jnp.where(p.expand(t) < below, fn(estimate.x0), estimate.x0)
    )

  return smoothed


def clip(x0, *, bound):
  """x0 in [-bound, bound], for `smooth`: as DDPM was published, on pictures."""
  return jnp.clip(x0, -bound, bound)


def threshold(x0, *, ratio, most):
  """x0 clipped where `ratio` of a clip's values end, and brought back to [-1, 1].

  Dynamic thresholding, https://arxiv.org/abs/2205.11487: the bound is a quantile of
  |x0|, at least 1 and at most `most`.
  """
  bound = jnp.quantile(jnp.abs(x0), ratio, axis=(1, 2, 3, 4), keepdims=True)
  bound = jnp.clip(bound, 1.0, most)
  return jnp.clip(x0, -bound, bound) / bound


def uniform(size):
  """Every frame of a window counts the same: [size]."""
  return np.ones(size)


def triangular(size):
  """The middle of a window counts most, its ends least: [size]."""
  return np.minimum(np.arange(1, size + 1), np.arange(size, 0, -1)).astype(float)


def windows(denoise, null, *, size, stride, weights=triangular):
  """A long video by overlapping windows, averaged in every step; one after another.

    x0[i] = sum over windows w that hold i of g_w(i) d_w(i) / sum g_w(i)

  Gen-L-Video, https://arxiv.org/abs/2305.18264; FreeNoise averages with `triangular`
  weights, https://arxiv.org/abs/2310.15169. The last window ends with the video. A
  video of `size` frames or fewer is one window.

  Args:
    size: frames that the denoiser sees.
    stride: frames from one window to the next, 1 .. size.
    weights: size -> [size], what each frame of a window counts.
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


def queue(denoise, null, *, size, length, look_ahead=False):
  """The frames in flight of a diagonal schedule, by windows: FIFO-Diffusion.

  With `schedules.fifo` the frames that are being denoised stand side by side, each a
  step noisier than the one before it; only they are looked at. Windows of `size` frames
  split them (latent partitioning); with look-ahead the windows overlap by half, and a
  frame is judged in the noisier half, with cleaner frames in front of it: twice the
  cost. https://arxiv.org/abs/2405.11473.

  Args:
    size: frames that the denoiser sees; even with look-ahead.
    length: frames in flight, a multiple of `size`: the steps of the schedule's grid.
  """
  del null
  if length % size or (look_ahead and size % 2):
    raise ValueError(
      f"length={length} must be a multiple of size={size}, and size even to look ahead."
    )
  stride = size // 2 if look_ahead else size
  ahead = size - stride  # cleaner frames in front of the first in flight
  offsets = range(0, length + ahead - size + 1, stride)

  def queued(x_t, t, cond):
    num_frames = x_t.shape[1]
    if num_frames < length + ahead:
      raise ValueError(
        f"A queue of {length + ahead} frames was asked of a video with {num_frames}; "
        "make the video longer, or the grid and the queue shorter."
      )
    x_t, t = jnp.asarray(x_t), jnp.asarray(t)
    first = jnp.argmax(t[0] > 0.0)  # not yet done
    start = jnp.clip(first - ahead, 0, num_frames - length - ahead)
    estimate = _nothing(denoise, x_t, t, cond, size)
    for k, offset in enumerate(offsets):
      index = start + offset + jnp.arange(size)
      part = denoise(x_t[:, index], t[:, index], _take(cond, index))
      keep = slice(0 if k == 0 else ahead, size)
      put = lambda old, new, i=index, s=keep: old.at[:, i[s]].set(new[:, s])
      estimate = jax.tree.map(put, estimate, part)
    return estimate

  return queued


def _nothing(denoise, x_t, t, cond, size):
  """An estimate of the whole video, zero, of the kind that a window's is."""
  index = np.arange(size)
  like = jax.eval_shape(denoise, x_t[:, index], t[:, index], _take(cond, index))
  whole = lambda x: jnp.zeros((x.shape[0], x_t.shape[1], *x.shape[2:]), x.dtype)
  return jax.tree.map(whole, like)


def _take(cond, index):
  return None if cond is None else conditioning.take(cond, index)
