"""A latent video diffusion model as a task: initialise, train, sample.

A batch is a dict of arrays with a leading axis B. The latents in it are either drawn
already, "latents" [B, T, H, W, C], or stand as moments of unit variance, "mean" and
"logvar" of that shape, from which a new sample is drawn at every step. The rest of
the batch is for the conditioner. What a frozen part encodes may stand in it raw:
"video" for the autoencoder, token ids or pixels for the encoders.

Joint training on images and videos: batch["pictures"] holds the same keys, of images
[B, I, ...]. Each is a clip of one frame to the network, with a condition of its own.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax
import jax
import jax.numpy as jnp
from einops import rearrange

from vdm_jax import conditioning, keys
from vdm_jax.autoencoders import base
from vdm_jax.diffusion import denoise as d
from vdm_jax.diffusion import loss as losses
from vdm_jax.diffusion import masks
from vdm_jax.diffusion import process as p
from vdm_jax.diffusion import times as times_lib
from vdm_jax.diffusion.samplers import loop
from vdm_jax.tasks import autoencoding


@dataclasses.dataclass(frozen=True, kw_only=True)
class LatentDiffusion:
  """A task that initialises, trains and samples a latent video diffusion model.

  Holds no arrays; the network's parameters are always passed in.

  Attributes:
    network: linen module, (x [B, T, H, W, C], t [B, T] or [B, 1], cond, *, train) -> F,
      of x's shape, or of 2 C channels with a learned variance.
    process: forward process, which gives alpha and sigma of t, e.g. process.DDPM().
    prediction: what F is: "x0", "eps", "v", "velocity" or "edm".
    conditioner: batch -> (cond, null), both Conditioning, of an encoded batch.
    autoencoder: frozen video autoencoder, for batches with "video"; None: batches hold
      latents.
    encoders: {name: encoder}, frozen, such as pipelines/text_encoder.py's. `inputs`
      names the entries of a batch that an encoder takes; `encode_batch(params, batch)`
      is the batch with the encoded ones; `abstract_params()` are its parameters
      as boxed ShapeDtypeStructs.
    times: (process, key, shape) -> t, the training distribution.
    weight: (process, prediction, t) -> weight [B, T] of the loss.
    drop_rates: {signal: probability} of training with its null, for guidance.
    mask_rates: {mask: probability} of training with given frames, such as {"first:4":
      0.3}. If there are any, the network gets `known` and `mask`.
    perturbation: noise on given frames or images, perturbation.KnownFrameNoise or
      ImageNoiseAugmentation; None: no noise.
    per_frame_times: whether each frame of a training clip has its own time (diffusion
      forcing, https://arxiv.org/abs/2407.01392), or all share one.
    error_fn: error -> loss of every element, loss.squared or loss.absolute.
    offset_noise: deviation of noise that is constant over a frame's channel; 0: none.
    vlb_weight: of the variational bound that a learned variance is trained by.
  """

  network: Any
  process: Any
  prediction: str
  conditioner: Callable
  autoencoder: Any = None
  encoders: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  times: Callable = times_lib.uniform
  weight: Callable = losses.constant_weight
  drop_rates: Mapping[str, float] = dataclasses.field(default_factory=dict)
  mask_rates: Mapping[str, float] = dataclasses.field(default_factory=dict)
  perturbation: Any = None
  per_frame_times: bool = False
  error_fn: Callable = losses.squared
  offset_noise: float = 0.0
  vlb_weight: float = 1.0

  def __post_init__(self):
    p.check_prediction(self.prediction, self.process)
    if self.perturbation and self.perturbation.for_known_frames and not self.mask_rates:
      raise ValueError("perturbation is of given frames: mask_rates must give some.")

  def init(self, key, batch):
    """The network's parameters, a nested dict, boxed with logical axis names.

    `batch` is encoded, {name: [B, ...]}, of the shapes that `loss` will get.
    """
    k_latents, k_mask, k_params = jax.random.split(key, 3)
    x0 = posterior_latents(batch, k_latents)
    cond, _ = self._condition(k_mask, batch, x0, self.mask_rates)
    x, t = self.process.network_inputs(x0, jnp.ones(x0.shape[:2]))
    return self.network.init(k_params, x, t, cond)["params"]

  def frozen_parts(self, batch):
    """Names of the encoders, and "autoencoder", that encode entries of `batch`, a list.

    `batch` is {name: array or ShapeDtypeStruct}.
    """
    entries = set(batch) | set(batch.get("pictures", {}))
    names = [k for k, x in self.encoders.items() if entries & set(x.inputs)]
    if self.autoencoder is not None and "video" in entries:
      names.append("autoencoder")
    return names

  def abstract_frozen(self, batch):
    """{name: parameters}, boxed ShapeDtypeStructs, of `frozen_parts(batch)`."""
    found = {}
    for name in self.frozen_parts(batch):
      if name == "autoencoder":
        init = lambda: self.autoencoder.init(
          jax.random.key(0), jnp.zeros((1, *batch["video"].shape[1:]))
        )
        found[name] = jax.eval_shape(init)
      else:
        found[name] = self.encoders[name].abstract_params()
    return found

  def encode(self, batch, frozen_params):
    """A batch (dict) with latents and tokens in place of videos, token ids and pixels.

    "video" becomes "mean" and "logvar", [B, t, h, w, c] of unit variance. Images of
    joint training ("pictures") stay as they are.

    Args:
      batch: {name: [B, ...]}.
      frozen_params: {name: parameters} of the parts in `frozen_parts(batch)`.
    """
    for name, encoder in self.encoders.items():
      if set(batch) & set(encoder.inputs):
        batch = encoder.encode_batch(frozen_params[name], batch)
    if self.autoencoder is not None and "video" in batch:
      moments = encode_video_moments(
        self.autoencoder, frozen_params["autoencoder"], batch
      )
      batch = {k: x for k, x in batch.items() if k != "video"} | moments
    return batch

  def loss(self, params, batch, key, frozen_params=None):
    """(loss, {name: scalar}) of one batch: means over all frames, images included.

    Metrics are "loss", "mse", with a learned variance "bound", with images "image_mse".

    Args:
      params: of the network.
      batch: {name: [B, ...]}: "latents" [B, T, H, W, C], or "mean" and "logvar" of that
        shape, or "video" for the autoencoder, and the conditioner's signals;
        "pictures", a dict of the same keys [B, I, ...], for joint training on images.
      key: PRNG key.
      frozen_params: {name: parameters} of `frozen_parts`, for batches that need some;
        no gradient reaches them.
    """
    frozen_params = jax.lax.stop_gradient(frozen_params)
    clips, pictures = (
      self.encode(part, frozen_params) for part in split_clips_and_pictures(batch)
    )
    loss, metrics = self._loss(params, clips, key, self.mask_rates)
    if not pictures:
      return loss, metrics
    frames = lambda batch: batch["latents" if "latents" in batch else "mean"].shape[:2]
    (rows, num_frames), (count, _) = frames(clips), frames(pictures)
    part = count / (rows * num_frames + count)
    k_pictures = jax.random.fold_in(key, 1)
    of_pictures, more = self._loss(params, pictures, k_pictures, {})
    both = lambda a, b: (1.0 - part) * a + part * b
    metrics = jax.tree.map(both, metrics, more) | {"image_mse": more["mse"]}
    return both(loss, of_pictures), metrics

  def _loss(self, params, batch, key, mask_rates):
    k_latents, k_mask, k_drop, k_time, k_noise, k_network = jax.random.split(key, 6)
    x0 = posterior_latents(batch, k_latents)
    cond, null = self._condition(k_mask, batch, x0, mask_rates)
    cond = conditioning.drop(k_drop, cond, null, self.drop_rates)
    each = x0.shape[1] if self.per_frame_times else 1
    t = self.times(self.process, k_time, (x0.shape[0], each))
    t = jnp.broadcast_to(t, x0.shape[:2])
    one_time = not (self.per_frame_times or self.mask_rates)

    def apply(x, t, cond):
      t = t[:, :1] if one_time else t  # one time for the clip: less to compute
      rngs = {"dropout": k_network}
      return self.network.apply({"params": params}, x, t, cond, train=True, rngs=rngs)

    return losses.denoising_loss(
      apply,
      self.process,
      self.prediction,
      x0,
      cond,
      t,
      k_noise,
      weight=self.weight,
      error_fn=self.error_fn,
      offset_noise=self.offset_noise,
      vlb_weight=self.vlb_weight,
    )

  def denoiser(self, params, null, wrappers=(), *, one_time=False):
    """Returns the denoiser (x_t [B, T, H, W, C], t [B, T], cond) -> Denoised, wrapped.

    Args:
      params: of the network.
      null: the Conditioning that guidance compares with.
      wrappers: (denoise, null) -> denoise, innermost first, such as guidance.
      one_time: promises that all frames of a clip share their time unless some are
        given: less to compute.
    """

    def apply(x, t, cond, cache=None, keep=()):
      t = t[:, :1] if one_time and cond.mask is None else t
      variables = {"params": params}
      if cache is None:
        return self.network.apply(variables, x, t, cond)
      if cache:
        variables["cache"] = flax.traverse_util.unflatten_dict(cache)
      out, kept = self.network.apply(
        variables, x, t, cond, keep_outputs=keep, mutable=["cache_out"]
      )
      return out, kept.get("cache_out", {})

    denoise = d.from_network(apply, self.process, self.prediction)
    return d.apply_wrappers(denoise, wrappers, null)

  def sample(
    self,
    params,
    batch,
    shape,
    key,
    *,
    sampler,
    ts,
    wrappers=(),
    noise=loop.noise_by_frame,
    start=None,
    known=None,
    mask=None,
  ):
    """Latents [B, T, H, W, C] of unit variance for the signals in `batch`.

    Given frames equal `known` to the bit.

    Args:
      params: of the network.
      batch: encoded signals {name: [B, ...]}, as the conditioner takes them.
      shape: [B, T, H, W, C].
      key: PRNG key; or keys [B], with which a video is the same in every batch.
      sampler: (denoise, process, x, ts, cond, key) -> x0.
      ts: [S + 1], [S + 1, T], or a function of the process that gives them.
      wrappers: around the denoiser, innermost first; `denoise.hold_known` is added if
        there is a mask, as the outermost unless it is among them.
      noise: (key, shape) -> the initial noise, such as diffusion.noise.mixed.
      start: `shape`, latents that are noised to the first time of `ts` and sampled from
        there (SDEdit, https://arxiv.org/abs/2108.01073); None starts from noise alone.
      known, mask: the given frames, `shape` and bool [T], [B, T] or [B, T, 1, 1, 1].
    """
    if (known is None) != (mask is None):
      raise ValueError("Given frames need both known and mask; one of them is missing.")
    cond, null = self.conditioner(batch)
    for x in jax.tree.leaves(cond):
      if x.shape[0] != shape[0]:
        raise ValueError(
          f"{shape[0]} videos were asked for and the batch has signals for "
          f"{x.shape[0]}; give one for each."
        )
    hold = (d.hold_known,) if mask is not None else ()
    if mask is None and self.mask_rates:
      # Such a network always gets a mask of given frames: here none.
      known, mask = jnp.zeros(shape), jnp.zeros(shape[1], bool)
    k_noise, k_steps = keys.split(key)
    ts = ts(self.process) if callable(ts) else ts
    one_time = jnp.ndim(ts) == 1
    alpha, sigma = self.process.alpha_sigma(loop.schedule_matrix(ts, shape[1])[:1])
    x = p.expand(sigma) * noise(k_noise, shape)
    x = x if start is None else x + p.expand(alpha) * start
    if mask is not None:
      mask = masks.broadcast(mask, *shape[:2])
      known = jnp.broadcast_to(jnp.asarray(known, x.dtype), shape)
      cond, null = (c.replace(known=known, mask=mask) for c in (cond, null))
      x = jnp.where(mask, known, x)
    if self.perturbation:
      k_shown = keys.fold_in(key, 2)
      cond = self.perturbation.perturb_sampling_cond(self.process, k_shown, cond)
      if self.perturbation.for_known_frames:
        noisy = functools.partial(self.perturbation.noisy_known, self.process)
        hold = tuple(functools.partial(wrap, noisy_known=noisy) for wrap in hold)
    wrappers = _held(wrappers, hold)
    denoise = self.denoiser(params, null, wrappers, one_time=one_time)
    return sampler(denoise, self.process, x, ts, cond, k_steps)

  def _condition(self, key, batch, x0, mask_rates):
    """(cond, null) of a training batch; with mask_rates, some frames are given."""
    cond, null = self.conditioner(batch)
    if self.mask_rates:
      # Such a network always gets a mask: of images an empty one.
      mask = masks.sample_masks(key, *x0.shape[:2], mask_rates)
      cond, null = (c.replace(known=x0, mask=mask) for c in (cond, null))
    if self.perturbation:
      k_levels = jax.random.fold_in(key, 1)
      cond = self.perturbation.perturb_training_cond(self.process, k_levels, cond)
    return cond, null


def _held(wrappers, hold):
  """The wrappers with `hold` in the place of `hold_known`, or behind them all."""
  places = [getattr(wrap, "func", wrap) is d.hold_known for wrap in wrappers]
  if not any(places):
    return (*wrappers, *hold)
  first = places.index(True)
  return (*wrappers[:first], *hold, *wrappers[first + 1 :])


def split_clips_and_pictures(batch):
  """(clips, images), two batches: images are batch["pictures"] as clips of one frame.

  Entries [B, I, ...] become [B I, ...], latents and pixels [B I, 1, H, W, C]. The
  second is {} for a batch without "pictures".
  """
  clips = {name: x for name, x in batch.items() if name != "pictures"}
  layouts = {5: "b i h w c -> (b i) 1 h w c"}
  pictures = {
    name: rearrange(x, layouts.get(x.ndim, "b i ... -> (b i) ..."))
    for name, x in batch.get("pictures", {}).items()
  }
  return clips, pictures


def encode_video_moments(autoencoder, params, batch):
  """{"mean", "logvar"}, each [B, t, h, w, c] of unit variance: batch["video"] encoded.

  `params` are the autoencoder's; no gradient reaches them.
  """
  moments = autoencoder.encode(params, autoencoding.float_video(batch))
  unit = lambda z: autoencoder.latents(params, base.Moments(z, z), None)
  zero = jnp.zeros((1, 1, 1, 1, moments.mean.shape[-1]))
  slope = unit(zero + 1.0) - unit(zero)  # the latents are affine in the raw ones
  logvar = moments.logvar + 2.0 * jnp.log(slope)
  return jax.lax.stop_gradient({"mean": unit(moments.mean), "logvar": logvar})


def posterior_latents(batch, key):
  """x0 [B, T, H, W, C], float32: "latents", or a sample of "mean" and "logvar"."""
  if "latents" in batch:
    return jnp.asarray(batch["latents"], jnp.float32)
  if "mean" not in batch or "logvar" not in batch:
    raise KeyError(
      f"The batch has {sorted(batch)}; expected 'latents', or 'mean' and 'logvar'. "
      "Encode the videos first, or give the task an autoencoder."
    )
  mean, logvar = (jnp.asarray(batch[k], jnp.float32) for k in ("mean", "logvar"))
  return mean + jnp.exp(0.5 * logvar) * jax.random.normal(key, mean.shape)
