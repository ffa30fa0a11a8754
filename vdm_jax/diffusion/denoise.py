"""From a network to a denoiser, and from a denoiser to a denoiser.

  denoise(x_t, t, cond) -> Denoised(x0)        x_t [B, T, H, W, C], t [B, T]

is all that a sampler knows. Wrappers `(denoise, null, **hyper) -> denoise` add
guidance, given frames ...; a config lists those it needs, innermost first. `null` is
the Conditioning in which every signal is empty.

Mixing estimates of x0 is mixing eps or v (they are affine in x0 with the same
coefficients, and guidance weights sum to one), so no wrapper knows the prediction.
"""

import flax
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from vdm_jax import conditioning
from vdm_jax.diffusion import loss
from vdm_jax.diffusion import process as p


@flax.struct.dataclass
class Denoised:
  """An estimate of the clean video.

  Attributes:
    x0: [B, T, H, W, C] its mean.
    log_variance: the same shape, of the step back, where a network gives it.
  """

  x0: jax.Array
  log_variance: jax.Array | None = None


def from_network(apply, process, prediction):
  """Reads a network's output F as an estimate of x0. apply: (x, t, cond) -> F."""
  p.check(prediction, process)

  def denoise(x_t, t, cond):
    out = apply(*process.network_inputs(x_t, t), cond)
    if out.shape != x_t.shape:
      raise ValueError(loss.wrong_output(out.shape, x_t.shape))
    return Denoised(p.solve(process, prediction, x_t, out.astype(x_t.dtype), t))

  return denoise


def chain(denoise, wrappers, null):
  """`denoise` in its wrappers, innermost first."""
  for wrap in wrappers:
    denoise = wrap(denoise, null)
  return denoise


def guide(denoise, null, *, drop, scales):
  """Classifier-free guidance along a chain of ever less conditioned estimates.

    x0 = d_n + sum_i scales[i] (d_i - d_{i+1})

  d_0 has all signals, d_{i+1} lacks those that drop[i] names. One entry is the usual
  guidance (https://arxiv.org/abs/2207.12598), where 1 is none; two are text and image.
  All estimates come from one call with n + 1 times the batch. With the single scale
  1.0 the network is called as it is.

  Args:
    drop: the names that each branch lacks: ("label",), or ("text", ("text", "image")).
    scales: as many; a number, a sequence of T numbers (one for each frame), an array
      that broadcasts to x0, or a function of t [B, T] that gives [B, T] or such an
      array.
  """
  drop = tuple((names,) if isinstance(names, str) else tuple(names) for names in drop)
  scales = tuple(scales)
  if len(drop) != len(scales) or not drop:
    raise ValueError(
      f"guide got {len(drop)} sets of signals to drop, {drop}, and {len(scales)} "
      "scales; give one scale for each set, and at least one."
    )
  if len(scales) == 1 and isinstance(scales[0], int | float) and scales[0] == 1:
    return denoise

  def guided(x_t, t, cond):
    conds = [cond] + [conditioning.swap(cond, null, names) for names in drop]
    n = len(conds)
    # The branches of an example lie side by side: a sharded batch stays where it is.
    stack = lambda *xs: rearrange(list(xs), "n b ... -> (b n) ...")
    tile = lambda x: stack(*[x] * n)
    parts = denoise(tile(x_t), tile(t), jax.tree.map(stack, *conds))
    parts = jax.tree.map(lambda x: rearrange(x, "(b n) ... -> n b ...", n=n), parts)

    x0 = parts.x0[-1]
    for i, scale in enumerate(scales):
      x0 += _scale(scale, t) * (parts.x0[i] - parts.x0[i + 1])
    variance = parts.log_variance
    return Denoised(x0, None if variance is None else variance[0])

  return guided


def interval(t, *, scale, low, high):
  """Guidance only while low < t <= high, https://arxiv.org/abs/2404.07724: [B, T]."""
  return jnp.where((low < t) & (t <= high), scale, 1.0)


def over_frames(t, *, start, stop):
  """A scale that changes linearly from the first frame to the last (SVD): [B, T]."""
  return jnp.broadcast_to(jnp.linspace(start, stop, t.shape[1]), t.shape)


def given(denoise, null):
  """Holds the frames that `cond.mask` marks at `cond.known`, at time 0."""
  del null

  def held(x_t, t, cond):
    if cond.mask is None or cond.known is None:
      raise ValueError(
        "The wrapper `given` needs cond.mask and cond.known; pass both to sample, or "
        "leave the wrapper out."
      )
    x_t = jnp.where(cond.mask, cond.known, x_t)
    t = jnp.where(cond.mask[..., 0, 0, 0], 0.0, t)
    estimate = denoise(x_t, t, cond)
    return estimate.replace(x0=jnp.where(cond.mask, cond.known, estimate.x0))

  return held


def _scale(scale, t):
  """A scale in any of its forms, ready to stand before [B, T, H, W, C]."""
  if callable(scale):
    scale = scale(t)
    return p.expand(scale) if np.ndim(scale) == 2 else scale
  if np.ndim(scale) == 1:
    if len(scale) != t.shape[1]:
      raise ValueError(
        f"guide got {len(scale)} scales over frames for {t.shape[1]} frames; give one "
        "for each, or the function over_frames."
      )
    return rearrange(jnp.asarray(scale), "t -> t 1 1 1")
  return scale
