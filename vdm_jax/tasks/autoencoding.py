"""Training an autoencoder: L1, KL, a perceptual distance and a patch GAN, as one loss.

The recipe of latent diffusion, https://arxiv.org/abs/2112.10752, with one difference:
the weight of the GAN is fixed. The original's is the ratio of two gradient norms at the
decoder's last layer, which would tie the task to one network's inside.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange, reduce

from vdm_jax import video_io
from vdm_jax.autoencoders import base, discriminator
from vdm_jax.metrics import frames, wavelets


@dataclasses.dataclass(frozen=True, kw_only=True)
class Autoencoding:
  """A task that trains an autoencoder: L1, KL, a perceptual distance and a patch GAN.

  Holds no arrays. Parameters: {"autoencoder": ..., and if used "discriminator": ...,
  "perceptual": ...}.

  Attributes:
    autoencoder: video autoencoder, with encode and decode (autoencoders/base.py).
    softness: of the L1 term, sqrt(x^2 + softness^2) - softness; 0 is L1, 1 almost L2.
    kl_weight: of the posterior's KL divergence in nats, per value of the video.
    perceptual: (params, x, y) -> distance [N] of frames [N, H, W, C] in [-1, 1]. If it
      has a method `init()`, that gives its parameters, which are never trained.
    perceptual_weight: of that distance; 0 leaves it out.
    gan_weight: of the generator's loss; 0 means that there is no discriminator.
    gan_start: the first step with a GAN; before it, the GAN's terms are 0.
    discriminator: linen module, clips [N, T, H, W, C] -> logits.
    frames_per_clip: frames drawn from each clip at every step, without repetition;
      None takes all.
  """

  autoencoder: Any
  softness: float = 0.0
  kl_weight: float = 1e-6
  perceptual: Callable = wavelets.distance
  perceptual_weight: float = 1.0
  gan_weight: float = 0.0
  gan_start: int = 0
  discriminator: Any = dataclasses.field(
    default_factory=discriminator.PatchDiscriminator
  )
  frames_per_clip: int | None = None

  def __post_init__(self):
    for name in ("softness", "kl_weight", "perceptual_weight", "gan_weight"):
      if getattr(self, name) < 0:
        raise ValueError(f"{name}={getattr(self, name)} must not be negative.")
    if self.frames_per_clip is not None and self.frames_per_clip < 1:
      raise ValueError(
        f"frames_per_clip={self.frames_per_clip} must be at least 1, or None for all."
      )
    motion = self.gan_weight and getattr(self.discriminator, "time_kernel", 1) > 1
    if motion and self.frames_per_clip is not None:
      raise ValueError(
        f"frames_per_clip={self.frames_per_clip} draws frames from anywhere in a clip, "
        "whose motion a discriminator of "
        f"time_kernel={self.discriminator.time_kernel} would judge; take None, for all."
      )

  def init(self, key, batch):
    """Initial parameters, a nested dict, for videos of the shape of batch["video"]."""
    k_autoencoder, k_discriminator = jax.random.split(key)
    video = float_video(batch)
    params = {"autoencoder": self.autoencoder.init(k_autoencoder, video)}
    if self.gan_weight:
      frame = jnp.zeros((1, 1, *video.shape[2:]))
      variables = self.discriminator.init(k_discriminator, frame)
      params["discriminator"] = variables["params"]
    if self.perceptual_weight and hasattr(self.perceptual, "init"):
      params["perceptual"] = self.perceptual.init()
    return params

  def loss(self, params, batch, key):
    """(loss, {name: scalar}): the sum of generator's and discriminator's losses.

    Each takes the other's parameters, or frames, as constants, so the gradient of the
    sum is the gradient of each one's own loss. Metrics are "loss", "l1", "kl", "psnr"
    and, if used, "perceptual" and "gan/...".

    Args:
      params: of `init`.
      batch: {"video": [B, T, H, W, C], uint8 or float in [-1, 1]}; with a GAN also
        {"step": the number of the step}.
      key: PRNG key of the frames and latents that are drawn.
    """
    check_mesh()
    k_frames, k_latents = jax.random.split(key)
    video = float_video(batch)
    if self.frames_per_clip is not None:
      video = draw_frames(k_frames, video, self.frames_per_clip)
    moments = self.autoencoder.encode(params["autoencoder"], video)
    latents = self.autoencoder.latents(params["autoencoder"], moments, k_latents)
    output = self.autoencoder.decode(params["autoencoder"], latents)

    real, fake = (rearrange(x, "b t h w c -> (b t) h w c") for x in (video, output))
    kl = base.elementwise_kl(moments)
    loss = wavelets.charbonnier(real - fake, self.softness).mean()
    loss += self.kl_weight * kl.sum() / video.size
    error = reduce(jnp.square(real - fake), "n h w c -> n", "mean")
    metrics = {
      "l1": jnp.abs(real - fake).mean(),
      "kl": kl.mean(),
      "psnr": frames.psnr_from_mse(error, peak=2.0, xp=jnp).mean(),
    }
    if self.perceptual_weight:
      frozen = jax.lax.stop_gradient(params.get("perceptual"))
      metrics["perceptual"] = self.perceptual(frozen, real, fake).mean()
      loss += self.perceptual_weight * metrics["perceptual"]
    if self.gan_weight:
      gan = self._gan_losses(params["discriminator"], batch, video, output)
      loss += self.gan_weight * gan["gan/generator"] + gan["gan/discriminator"]
      metrics |= gan
    return loss, metrics | {"loss": loss}

  def reconstruct(self, params, video):
    """Videos decoded from latent means, of the video's shape, float32 in [-1, 1].

    `video` is [B, T, H, W, C], uint8 or float in [-1, 1].
    """
    params = params["autoencoder"]
    moments = self.autoencoder.encode(params, float_video({"video": video}))
    latents = self.autoencoder.latents(params, moments, None)
    return jnp.clip(self.autoencoder.decode(params, latents), -1.0, 1.0)

  def finish(self, params, batches):
    """`params` with the latents' mean and deviation, measured on `batches`."""
    encode = jax.jit(lambda p, video: self.autoencoder.encode(p, float_video(video)))
    moments = (
      encode(params["autoencoder"], {"video": batch["video"]}) for batch in batches
    )
    measured = self.autoencoder.with_latent_statistics(params["autoencoder"], moments)
    return {**params, "autoencoder": measured}

  def _gan_losses(self, params, batch, real, fake):
    """{"gan/...": scalar} of both networks; zeros before `gan_start`, at no cost."""
    if "step" not in batch:
      raise KeyError(
        f"The batch has {sorted(batch)}; a GAN that begins at gan_start="
        f"{self.gan_start} needs batch['step'], which the training step adds."
      )
    logits = lambda params, x: self.discriminator.apply({"params": params}, x)
    fixed = jax.lax.stop_gradient

    def after_start(params, real, fake):
      on_real, on_fake = logits(params, real), logits(params, fixed(fake))
      return {
        "gan/generator": discriminator.generator_loss(logits(fixed(params), fake)),
        "gan/discriminator": discriminator.discriminator_loss(on_real, on_fake),
        "gan/real": on_real.mean(),
        "gan/fake": on_fake.mean(),
      }

    def before_start(params, real, fake):
      shapes = jax.eval_shape(after_start, params, real, fake)
      return jax.tree.map(jnp.zeros_like, shapes)

    started = batch["step"] >= self.gan_start
    return jax.lax.cond(started, after_start, before_start, params, real, fake)


def param_group(path):
  """The optimizer group of a path "a/b/c": "generator", "discriminator" or "frozen".

  The `label_fn` of `optimizer.partitioned`, where "frozen" is not updated
  (`optax.set_to_zero()`): perceptual networks, and the measured statistics of the
  latents, whose gradient is zero but which weight decay would shrink.
  """
  parts = path.split("/")
  if parts[0] == "perceptual" or "latents" in parts:
    return "frozen"
  return "discriminator" if parts[0] == "discriminator" else "generator"


def float_video(batch):
  """batch["video"] as float32 in [-1, 1]: uint8 is scaled, floats are kept."""
  if "video" not in batch:
    raise KeyError(f"The batch has {sorted(batch)}; an autoencoder needs 'video'.")
  video = jnp.asarray(batch["video"])
  if video.dtype == jnp.uint8:
    return video_io.to_float(video)
  if not jnp.issubdtype(video.dtype, jnp.floating):
    raise TypeError(
      f"batch['video'] is {video.dtype}; it must be uint8, or float in [-1, 1]."
    )
  return video.astype(jnp.float32)


def draw_frames(key, video, count):
  """`count` random frames of each clip, in their order: [B, count, H, W, C]."""
  clips, frames = video.shape[:2]
  if count > frames:
    raise ValueError(
      f"frames_per_clip={count} is more than the {frames} frames of a clip; take at "
      "most that many, or None for all."
    )
  rank = jnp.argsort(jax.random.uniform(key, (clips, frames)), axis=1)
  chosen = jnp.sort(rank[:, :count], axis=1)
  return jax.vmap(functools.partial(jnp.take, axis=0))(video, chosen)


def check_mesh():
  """Raises a ValueError for a mesh on which gradients of convolutions would be wrong.

  Where a video is split by frames or rows and another axis of the mesh repeats it, the
  compiler of jax 0.10.2 gives a kernel a gradient several times too large.
  """
  sizes = dict(jax.sharding.get_abstract_mesh().shape)
  wrong = {k: sizes[k] for k in ("seq", "tensor") if sizes.get(k, 1) > 1}
  if len(wrong) > 1:
    raise ValueError(
      f"An autoencoder cannot be trained on a mesh with {wrong}: gradients would be "
      "wrong. Give these devices to data or fsdp, or to one of the two."
    )
