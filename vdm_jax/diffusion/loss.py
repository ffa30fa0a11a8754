"""The denoising loss for any process, prediction, weight and mask.

  L = mean over frames to generate of  w(t) e(F - F*),    F* = a(t) x0 + b(t) eps

with e the square unless the config says otherwise.

A weight is a function (process, prediction, t) -> [B, T]. Each is stated as the weight
of the error of x0 (or eps) and converted to the network's prediction F.
"""

import jax
import jax.numpy as jnp

from vdm_jax.diffusion import process as p
from vdm_jax.diffusion import variance


def squared(error):
  """The square of an error, of its shape: the usual loss."""
  return error**2


def absolute(error):
  """The absolute value of an error: the "l1" loss of LVDM, arXiv 2211.13221."""
  return jnp.abs(error)


def constant_weight(process, prediction, t):
  """Loss weights [B, T], all 1: the unweighted error of the network's prediction."""
  del process, prediction
  return jnp.ones_like(t)


def min_snr_weight(process, prediction, t, *, gamma=5.0):
  """Min-SNR loss weights [B, T] at times t [B, T]: min(SNR, gamma) on the error of x0.

  On the error of the network's `prediction` ("x0", "eps", "v" ...) that is, for eps
  min(SNR, gamma) / SNR, for v min(SNR, gamma) / (SNR + 1), for x0 min(SNR, gamma).
  https://arxiv.org/abs/2303.09556.
  """
  alpha, sigma = process.alpha_sigma(t)
  snr = jnp.minimum((alpha / sigma) ** 2, gamma)
  return snr * _to_x0(process, prediction, t) ** 2


def soft_min_snr_weight(process, prediction, t, *, gamma=4.0):
  """Loss weights [B, T] at times t: SNR gamma / (SNR + gamma) on the error of x0.

  A smooth min-SNR, converted to the error of the network's `prediction` ("eps" ...).
  https://arxiv.org/abs/2401.11605, appendix B.
  """
  alpha, sigma = process.alpha_sigma(t)
  snr = (alpha / sigma) ** 2
  return snr * gamma / (snr + gamma) * _to_x0(process, prediction, t) ** 2


def truncated_snr_weight(process, prediction, t):
  """Loss weights [B, T] at times t: max(SNR, 1) on the error of x0. arXiv 2202.00512.

  Converted to the error of the network's `prediction` ("eps", "v" ...).
  """
  alpha, sigma = process.alpha_sigma(t)
  return jnp.maximum((alpha / sigma) ** 2, 1.0) * _to_x0(process, prediction, t) ** 2


def sigmoid_weight(process, prediction, t, *, bias=-3.0):
  """Loss weights [B, T] at times t: sigmoid(bias - log SNR) on the error of eps.

  Converted to the error of the network's `prediction` ("v" ...). arXiv 2410.19324.
  """
  alpha, sigma = process.alpha_sigma(t)
  log_snr = 2.0 * (jnp.log(alpha) - jnp.log(sigma))
  to_eps = _to_x0(process, prediction, t) * alpha / sigma
  return jax.nn.sigmoid(bias - log_snr) * to_eps**2


def edm_weight(process, prediction, t, *, sigma_data=0.5):
  """EDM's loss weights [B, T] at times t, which are 1 on EDM's own prediction.

  (s^2 + sd^2) / (s sd)^2 on the error of x0, s = sigma / alpha, sd = sigma_data (the
  data's deviation): table 1 of https://arxiv.org/abs/2206.00364. Converted to the error
  of the network's `prediction` ("eps", "v" ...).
  """
  alpha, sigma = process.alpha_sigma(t)
  s = sigma / alpha
  weight = (s**2 + sigma_data**2) / (s * sigma_data) ** 2
  return weight * _to_x0(process, prediction, t) ** 2


def _to_x0(process, prediction, t):
  """An error of F times this is the error of x0 that it makes, [B, T]."""
  _, sigma = process.alpha_sigma(t)
  return sigma / p.determinant(prediction, process, t)


def denoising_loss(
  apply,
  process,
  prediction,
  x0,
  cond,
  t,
  key,
  *,
  weight=constant_weight,
  error_fn=squared,
  offset_noise=0.0,
  vlb_weight=1.0,
):
  """(scalar loss, metrics) of one batch of clean latents.

  Args:
    apply: (x, t, cond) -> network output [B, T, H, W, C]; or [.., 2 C], whose second
      half is the learned variance.
    process: forward process, which gives alpha and sigma of t.
    prediction: what the output is: "x0", "eps", "v", "velocity" or "edm".
    x0: [B, T, H, W, C] clean latents.
    cond: Conditioning; frames of its mask are input as `known` (or clean), at time 0,
      and are not in the loss.
    t: [B, T] times.
    key: PRNG key of the noise.
    weight: (process, prediction, t) -> [B, T].
    error_fn: error -> loss of every element, `squared` or `absolute`. The weights above
      are stated for the square.
    offset_noise: deviation of noise that is constant over a frame's channel, added to
      eps so that brightness is learned; 0.05 to 0.1 is usual.
    vlb_weight: of the variational bound, in bits per element, that a learned variance
      is trained by; the mean gets no gradient from it.

  Returns:
    The loss, and scalars {"loss": the same, "mse": mean square without the weight};
    with a learned variance also "bound", which is in the loss vlb_weight times.
  """
  x0 = x0.astype(jnp.float32)
  k_eps, k_offset = (key, None) if not offset_noise else jax.random.split(key)
  eps = jax.random.normal(k_eps, x0.shape)
  if offset_noise:
    shape = (*x0.shape[:2], 1, 1, x0.shape[-1])
    eps += offset_noise * jax.random.normal(k_offset, shape)
  generated = jnp.ones_like(t)
  if cond.mask is not None:
    generated = jnp.where(cond.mask[..., 0, 0, 0], 0.0, 1.0)
    t = t * generated
  x_t = p.mix(process.alpha_sigma(t), x0, eps)
  if cond.mask is not None:
    x_t = jnp.where(cond.mask, x0 if cond.known is None else cond.known, x_t)
  target = p.mix(p.prediction_coefficients(prediction, process, t), x0, eps)
  out = apply(*process.network_inputs(x_t, t), cond).astype(jnp.float32)
  out, fraction = variance.split_prediction_and_variance_fraction(out, x0.shape[-1])
  if out.shape != x0.shape:
    raise ValueError(f"The network returned {out.shape}, expected {x0.shape}.")
  per_frame = lambda e: jnp.mean(e, axis=(2, 3, 4))  # [B, T]
  error, square = (per_frame(e(out - target)) for e in (error_fn, squared))
  mean = lambda w, e: jnp.sum(w * e) / jnp.maximum(jnp.sum(generated), 1.0)
  loss = mean(generated * weight(process, prediction, t), error)
  metrics = {"mse": mean(generated, square)}
  if fraction is not None and vlb_weight:
    x0_hat = p.x0_from_output(process, prediction, x_t, jax.lax.stop_gradient(out), t)
    bits = variance.variational_bound(process, x0, x_t, x0_hat, fraction, t)
    metrics["bound"] = mean(generated, bits)
    loss += vlb_weight * metrics["bound"]
  return loss, {"loss": loss, **metrics}
