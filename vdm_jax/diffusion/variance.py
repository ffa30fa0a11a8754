"""The reverse step, q(x_s | x_t, x0) for s < t, and its learned variance.

  q(x_s | x_t, x0) = N(mean, var),   var = sigma_s^2 (1 - SNR_t / SNR_s)

The second C of 2 C output channels of a network say where the variance of the reverse
step lies between var (0) and beta = 1 - alpha_bar_t / alpha_bar_s (1), in logarithms:
equation 15 of https://arxiv.org/abs/2102.09672, "learned range". It is trained by
`variational_bound`.
"""

import jax.numpy as jnp
import numpy as np

from vdm_jax.diffusion import process as p


def split_prediction_and_variance_fraction(out, channels):
  """(prediction, fraction) of a network's output, [..., C] each.

  Args:
    out: [..., C], without a learned variance (then fraction is None), or [..., 2 C];
      the second half v gives the fraction (v + 1) / 2, which places the log variance
      between the posterior's (0) and beta (1).
    channels: C, of the latents.
  """
  if out.shape[-1] not in (channels, 2 * channels):
    raise ValueError(
      f"The network returned {out.shape}, expected {channels} channels, one for each "
      f"of x_t, or {2 * channels}, with a learned variance: set the network's number "
      "of output channels to one of them."
    )
  if out.shape[-1] == channels:
    return out, None
  return out[..., :channels], 0.5 * (out[..., channels:] + 1.0)


def transition_scale_and_variance(process, t, s):
  """(alpha_t / alpha_s, variance), each [B, T], of q(x_t | x_s) for times s < t."""
  if isinstance(process, p.DDPM):  # a difference of nearly equal numbers otherwise
    log_ratio = process.log_alpha_bar_ratio(t, s)
    return jnp.exp(0.5 * log_ratio), -jnp.expm1(log_ratio)
  alpha, sigma = process.alpha_sigma(t)
  alpha_s, sigma_s = process.alpha_sigma(s)
  ratio = alpha / alpha_s
  return ratio, jnp.maximum(sigma**2 - (ratio * sigma_s) ** 2, 0.0)


def posterior_variance(process, t, s):
  """The variance [B, T] of the reverse step q(x_s | x_t, x0) for times s < t."""
  _, var = transition_scale_and_variance(process, t, s)
  return var * (process.alpha_sigma(s)[1] / process.alpha_sigma(t)[1]) ** 2


def ddim_variance(process, t, s):
  """The variance [B, T] of DDIM's noise in a step from t to s [B, T] with eta = 1.

  That of the posterior; any up to sigma_s^2 would do: DDIM's mean keeps q(x_s | x0).
  For a SignalScaledProcess that of its base.
  """
  return posterior_variance(getattr(process, "base", process), t, s)


def posterior_mean(process, x_t, x0, t, s):
  """The mean [B, T, H, W, C] of the reverse step q(x_s | x_t, x0) for times s < t."""
  ratio, var = transition_scale_and_variance(process, t, s)
  _, sigma = process.alpha_sigma(t)
  alpha_s, sigma_s = process.alpha_sigma(s)
  return p.mix((alpha_s * var / sigma**2, ratio * (sigma_s / sigma) ** 2), x0, x_t)


def log_variance(process, fraction, t, s):
  """The log variance of the reverse step from t to s, broadcastable to [B, T, H, W, C].

  Args:
    fraction: [B, T, H, W, C], from the posterior's variance (0) to beta (1), in
      logarithms; None: the posterior's.
  """
  low = jnp.log(jnp.maximum(posterior_variance(process, t, s), 1e-20))
  if fraction is None:
    return p.expand(low)
  high = jnp.log(jnp.maximum(transition_scale_and_variance(process, t, s)[1], 1e-20))
  return fraction * p.expand(high) + (1.0 - fraction) * p.expand(low)


def variational_bound(process, x0, x_t, x0_hat, fraction, t):
  """The variational bound [B, T] of a step from t to t - 1, in bits per element.

  The KL divergence of the learned reverse step from the true one; for t = 1 the
  likelihood of x0, quantised to 256 values in [-1, 1]. Only `fraction` gets a gradient
  if the caller stops that of x0_hat, as https://arxiv.org/abs/2102.09672 does.

  Args:
    x0, x_t, x0_hat, fraction: [B, T, H, W, C]; x0_hat is the estimate of x0.
    t: [B, T] in 1 .. num_steps, whole steps; DDPM only.
  """
  if not isinstance(process, p.DDPM):
    raise ValueError(
      f"The variational bound is over the steps of DDPM, got {process}; give the "
      "network as many output channels as the latents have."
    )
  t = jnp.maximum(t, 1.0)
  s = t - 1.0
  # The variance of the step to the data is 0; the one before it stands in for it.
  t_var = jnp.maximum(t, 2.0)
  true = p.expand(jnp.log(posterior_variance(process, t_var, t_var - 1.0)))
  high = p.expand(jnp.log(transition_scale_and_variance(process, t, s)[1]))
  learned = fraction * high + (1.0 - fraction) * true
  true_mean = posterior_mean(process, x_t, x0, t, s)
  mean = posterior_mean(process, x_t, x0_hat, t, s)
  gap = (true_mean - mean) ** 2 * jnp.exp(-learned)
  divergence = 0.5 * (-1.0 + learned - true + jnp.exp(true - learned) + gap)
  nats = jnp.where(
    p.expand(t) > 1.0, divergence, -discretized_log_likelihood(x0, mean, learned)
  )
  return jnp.mean(nats, axis=(2, 3, 4)) / np.log(2.0)


def discretized_log_likelihood(x, mean, log_var):
  """Log probability, of x's shape, of x in 256 values of [-1, 1] under a Gaussian.

  The mass of the bin of width 2 / 255 around x, the last ones open, under the given
  mean and log variance, as in DDPM's code (its tanh in place of the error function
  included).
  """
  scale = jnp.exp(-0.5 * log_var)
  above = _cdf(scale * (x - mean + 1 / 255))
  below = _cdf(scale * (x - mean - 1 / 255))
  log = lambda y: jnp.log(jnp.maximum(y, 1e-12))
  inside = jnp.where(x > 0.999, log(1.0 - below), log(above - below))
  return jnp.where(x < -0.999, log(above), inside)


def _cdf(x):
  return 0.5 * (1.0 + jnp.tanh(np.sqrt(2.0 / np.pi) * (x + 0.044715 * x**3)))
