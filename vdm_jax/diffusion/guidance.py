"""Guidance: extrapolation from estimates with fewer conditions to the one with all.

`guide` calls the denoiser once for all branches and gives their estimates of x0 to
`combine`: `classifier_free`, `rescaled`, `adaptive_projected` or `cfg_zero_star`.

Linear guidance is the same for x0, eps, v and velocity. The others are not: wrap them
in `in_prediction_space` to apply them to what their paper does.
"""

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from vdm_jax import conditioning
from vdm_jax.diffusion import process as p


def classifier_free(estimates, scales, x_t, t):
  """Classifier-free guidance, d_n + sum_i scales[i] (d_i - d_{i+1}): [B, T, H, W, C].

  Args:
    estimates: n + 1 estimates d_i of x0 [B, T, H, W, C], of all signals to fewest.
    scales: n arrays that broadcast to them; the noisy x_t and times t are not used.
  """
  del x_t, t
  out = estimates[-1]
  for i, scale in enumerate(scales):
    out += scale * (estimates[i] - estimates[i + 1])
  return out


def rescaled(estimates, scales, x_t, t, *, phi=0.7):
  """Guided x0 [B, T, H, W, C], rescaled to the deviation of the conditional estimate.

  Classifier-free guidance times phi std(d_0) / std(guided) + 1 - phi, over each clip:
  section 3.4 of https://arxiv.org/abs/2305.08891, there of predictions.

  Args:
    estimates: n + 1 estimates d_i of x0 [B, T, H, W, C], of all signals to fewest.
    scales: n arrays that broadcast to them; the noisy x_t and times t are not used.
    phi: share of the rescaling; 0 is none.
  """
  guided = classifier_free(estimates, scales, x_t, t)
  std = lambda x: jnp.std(x, axis=(1, 2, 3, 4), keepdims=True)
  return guided * (phi * std(estimates[0]) / std(guided) + 1.0 - phi)


def adaptive_projected(estimates, scales, x_t, t, *, eta=0.0, norm=None):
  """Guided x0 [B, T, H, W, C] by adaptive projected guidance (APG) without momentum.

  The update d_0 - d_1 is clipped to the length `norm`, and its part parallel to d_0
  is multiplied by eta. Lengths and projections are of a whole clip.
  https://arxiv.org/abs/2410.02416, algorithm 1.

  Args:
    estimates: two estimates of x0 [B, T, H, W, C], with the signals and without.
    scales: one array that broadcasts to them; the noisy x_t and times t are not used.
    eta: 1 without a norm is classifier-free guidance.
    norm: largest length of the update; None does not clip.
  """
  del x_t, t
  _two(estimates, "adaptive_projected")
  dot = lambda a, b: jnp.sum(a * b, axis=(1, 2, 3, 4), keepdims=True)
  update = estimates[0] - estimates[1]
  if norm is not None:
    length = jnp.sqrt(jnp.maximum(dot(update, update), 1e-12))
    update *= jnp.minimum(1.0, norm / length)
  square = jnp.maximum(dot(estimates[0], estimates[0]), 1e-12)
  parallel = dot(update, estimates[0]) / square * estimates[0]
  return estimates[0] + (scales[0] - 1.0) * (update - parallel + eta * parallel)


def cfg_zero_star(estimates, scales, x_t, t, *, zero_above=None):
  """Guided estimate [B, T, H, W, C] by CFG-Zero*, of the kind that `estimates` are.

    s u + scale (c - s u),   s = <c, u> / |u|^2 over a clip

  https://arxiv.org/abs/2503.18886, there of velocities. `guide` gives estimates of x0:
  to guide velocities, bind this as the `combine` of `in_prediction_space`.

  Args:
    estimates: [c, u], each [B, T, H, W, C], with the signals and without.
    scales: [scale], one array that broadcasts to them.
    x_t, t: the noisy video, which is not used, and its times [B, T].
    zero_above: the result is 0 at t > zero_above (zero-init), so that the first steps
      change nothing; None: never.
  """
  del x_t
  _two(estimates, "cfg_zero_star")
  dot = lambda a, b: jnp.sum(a * b, axis=(1, 2, 3, 4), keepdims=True)
  cond, uncond = estimates
  uncond = uncond * dot(cond, uncond) / jnp.maximum(dot(uncond, uncond), 1e-12)
  out = uncond + scales[0] * (cond - uncond)
  return out if zero_above is None else jnp.where(p.expand(t) > zero_above, 0.0, out)


def in_prediction_space(estimates, scales, x_t, t, *, process, prediction, combine):
  """Guided x0 [B, T, H, W, C] by a rule that is applied to the network's predictions.

  Args:
    estimates: estimates of x0 [B, T, H, W, C], from all signals to the fewest.
    scales: one less, arrays that broadcast to them.
    x_t, t: the noisy video and its times [B, T].
    process: forward process, which gives alpha and sigma of t.
    prediction: what `combine` gets: "x0", "eps", "v", "velocity" or "edm".
    combine: (predictions, scales, x_t, t) -> guided prediction, e.g. `cfg_zero_star`.
  """

  def to_prediction(x0):
    return p.mix(
      p.prediction_coefficients(prediction, process, t),
      x0,
      p.eps_from_x0(process, x_t, x0, t),
    )

  out = combine([to_prediction(x0) for x0 in estimates], scales, x_t, t)
  return p.x0_from_output(process, prediction, x_t, out, t)


def guide(denoise, null, *, drop, scales, combine=classifier_free):
  """Returns a guided denoiser (x_t [B, T, H, W, C], t [B, T], cond) -> Denoised.

  Classifier-free guidance of one or several branches. Estimate d_0 has all signals,
  d_{i+1} lacks those that drop[i] names. One entry is the usual guidance, where scale 1
  is none; two are text and image. All estimates come from one call with n + 1 times the
  batch. With the single scale 1.0 `denoise` is returned, whatever `combine`.

  Args:
    denoise: the denoiser to guide, of the same signature.
    null: Conditioning in which every signal is empty.
    drop: the names that each branch lacks: ("label",), or ("text", ("text", "image")).
    scales: one for each branch; a number, T numbers (one for each frame), an array that
      broadcasts to x0 ([1, 1, 1, C] guides some channels only), or a function of t
      [B, T] that gives [B, T] or such an array.
    combine: (estimates, scales, x_t, t) -> x0, such as `classifier_free`.
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
    # The variance is the conditional one's.
    first, estimates = _denoise_branches(denoise, [(x_t, t, c) for c in conds])
    at = [_scale(scale, t) for scale in scales]
    return first.replace(x0=combine(estimates, at, x_t, t))

  return guided


def known_frames_cfg(denoise, null, *, process, scale):
  """Returns a denoiser guided by known frames, classifier-free: no gradient is taken.

  (x_t [B, T, H, W, C], t [B, T], cond) -> Denoised, in one call of twice the batch:

    d(no known frames) + scale (d(known frames) - d(no known frames))

  https://arxiv.org/abs/2211.13221. Where they count as not known, these frames are
  noised as all others are, with one noise in all steps and videos. It is outside of
  `denoise.hold_known`: after it among the wrappers.

  Args:
    denoise: the denoiser to guide, of the same signature; `null` is not used.
    process: forward process, which gives alpha and sigma of t.
    scale: a number, 1.1 in the paper; 1 returns `denoise`.
  """
  del null
  if scale == 1:
    return denoise

  def guided(x_t, t, cond):
    if cond.mask is None:
      return denoise(x_t, t, cond)
    eps = jax.random.normal(jax.random.key(0), x_t.shape[1:])
    noised = p.mix(process.alpha_sigma(t), cond.known, eps)
    blank = cond.replace(
      known=jnp.zeros_like(cond.known), mask=jnp.zeros_like(cond.mask)
    )
    without = jnp.where(cond.mask, noised, x_t), t, blank
    first, estimates = _denoise_branches(denoise, [(x_t, t, cond), without])
    x0 = classifier_free(estimates, [scale], x_t, t)
    return first.replace(x0=jnp.where(cond.mask, cond.known, x0))

  return guided


def _denoise_branches(denoise, inputs):
  """(the Denoised of the first inputs, [x0 of each]), all by one call of `denoise`.

  The branches of an example are neighbours: a sharded batch is not moved.
  """
  stack = lambda *xs: rearrange(list(xs), "n b ... -> (b n) ...")
  split = lambda x: rearrange(x, "(b n) ... -> n b ...", n=len(inputs))
  parts = jax.tree.map(split, denoise(*jax.tree.map(stack, *inputs)))
  return jax.tree.map(lambda x: x[0], parts), list(parts.x0)


def interval_scale(t, *, scale, low, high):
  """Guidance scales [B, T]: `scale` at low < t <= high, else 1. arXiv 2404.07724."""
  return jnp.where((low < t) & (t <= high), scale, 1.0)


def linear_over_frames(t, *, start, stop):
  """Guidance scales, of t's shape [B, T], over the frames: `start` to `stop`; SVD's."""
  return jnp.broadcast_to(jnp.linspace(start, stop, t.shape[1]), t.shape)


def triangular_over_frames(t, *, ends, middle):
  """Guidance scales, of t's shape [B, T], over the frames; SV3D's.

  They are `ends` at the first and the last, `middle` half way.
  """
  height = 1.0 - jnp.abs(jnp.linspace(-1.0, 1.0, t.shape[1]))
  return jnp.broadcast_to(ends + (middle - ends) * height, t.shape)


def _two(estimates, name):
  if len(estimates) != 2:
    raise ValueError(
      f"{name} combines two estimates, with and without the signals; guide gave "
      f"{len(estimates)}. Name one set in drop, or combine them with classifier_free."
    )


def _scale(scale, t):
  """A scale in any of its forms, broadcastable to [B, T, H, W, C]."""
  if callable(scale):
    scale = scale(t)
    return p.expand(scale) if np.ndim(scale) == 2 else scale
  if np.ndim(scale) == 1:
    if len(scale) != t.shape[1]:
      raise ValueError(
        f"guide got {len(scale)} scales over frames for {t.shape[1]} frames; give one "
        "for each, or the function linear_over_frames."
      )
    return rearrange(jnp.asarray(scale), "t -> t 1 1 1")
  return scale
