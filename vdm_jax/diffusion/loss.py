"""The denoising loss. One for all: process, prediction, weight and mask are inputs.

  L = mean over frames to generate of  w(t) |F - F*|^2,    F* = a(t) x0 + b(t) eps

A weight is a function (process, prediction, t) -> [B, T].
"""

import jax
import jax.numpy as jnp

from vdm_jax.diffusion import process as p


def constant(process, prediction, t):
  """1: the plain error of what the network predicts."""
  del process, prediction
  return jnp.ones_like(t)


def min_snr(process, prediction, t, *, gamma=5.0):
  """min(SNR, gamma) on the error of x0, whatever the network predicts.

  An error of F is an error of x0 times determinant / sigma, so the weight on F is
  min(SNR, gamma) (sigma / determinant)^2: for eps min(SNR, gamma) / SNR, for v
  min(SNR, gamma) / (SNR + 1), for x0 min(SNR, gamma).
  https://arxiv.org/abs/2303.09556.
  """
  alpha, sigma = process.alpha_sigma(t)
  to_x0 = sigma / p.determinant(prediction, process, t)
  return jnp.minimum((alpha / sigma) ** 2, gamma) * to_x0**2


def denoising_loss(apply, process, prediction, x0, cond, t, key, *, weight=constant):
  """The loss of one batch.

  Args:
    apply: (x, t, cond) -> network output [B, T, H, W, C].
    x0: [B, T, H, W, C] clean latents.
    cond: Conditioning; frames that its mask marks are shown clean, at time 0, and
      count nothing.
    t: [B, T].
    key: of the noise.
    weight: (process, prediction, t) -> [B, T].

  Returns:
    Scalar loss, {"loss", "mse"}: with and without the weight.
  """
  x0 = x0.astype(jnp.float32)
  eps = jax.random.normal(key, x0.shape)
  generated = jnp.ones_like(t)
  if cond.mask is not None:
    generated = jnp.where(cond.mask[..., 0, 0, 0], 0.0, 1.0)
    t = t * generated
  x_t = p.mix(process.alpha_sigma(t), x0, eps)
  if cond.mask is not None:
    x_t = jnp.where(cond.mask, x0 if cond.known is None else cond.known, x_t)
  target = p.mix(p.row(prediction, process, t), x0, eps)
  out = apply(*process.network_inputs(x_t, t), cond).astype(jnp.float32)
  if out.shape != x0.shape:
    raise ValueError(wrong_output(out.shape, x0.shape))
  error = jnp.mean((out - target) ** 2, axis=(2, 3, 4))  # [B, T]
  mean = lambda w: jnp.sum(w * error) / jnp.maximum(jnp.sum(generated), 1.0)
  loss = mean(generated * weight(process, prediction, t))
  return loss, {"loss": loss, "mse": mean(generated)}


def wrong_output(came, wanted):
  """The message for a network whose output has not the shape of its input."""
  return (
    f"The network returned {came}, expected {wanted}: one value for each of x_t. "
    "A second half of the channels (learned variance) is not read: set the network's "
    "number of output channels to that of the latents."
  )
