"""A clip as a few tokens: latents that have no place and no frame of their own.

TiTok (https://arxiv.org/abs/2406.07550), with time and with Gaussian latents: encoder
and decoder are transformers over the patches of a clip and `num_tokens` more tokens,
and only the latter are kept between them. What the clip's frames have in common, such
as a flight, is then written once; the decoder makes all frames of it, so they agree.

It reads pixels, or the latents of another autoencoder, see `stacked.py`.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from vdm_jax.autoencoders import base
from vdm_jax.layers import norms, patches, placement
from vdm_jax.layers.attention.attention import Attention
from vdm_jax.layers.linear import Linear

# The prior's is 0: the posterior starts narrow, so the decoder sees the latents.
INITIAL_LOGVAR = -4.0
places_normal = nn.initializers.normal(0.5)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipTokens:
  """Hyper-parameters.

  A longer or larger video is coded window by window, each by itself. The tokens lie
  along time in the latents, [B, num_tokens, 1, 1, latent_channels] for one window.

  Attributes:
    window: frames, height and width of a clip.
    patch: of the patches that it is cut into, one token each; they tile the window.
    num_tokens: tokens that are kept; it divides the frames of the window.
    pixel_channels: of the video, or of the latents that stand in its place.
    depths: blocks of the encoder, and of the decoder.
  """

  window: tuple[int, int, int]
  patch: tuple[int, int, int]
  num_tokens: int = 4
  latent_channels: int = 16
  pixel_channels: int = 3
  width: int = 160
  depths: tuple[int, int] = (4, 4)
  num_heads: int = 4
  mlp_ratio: float = 4.0
  dtype: Any = jnp.float32
  param_dtype: Any = jnp.float32

  def __post_init__(self):
    for name in ("window", "patch", "depths"):
      object.__setattr__(self, name, tuple(getattr(self, name)))
    pairs = list(zip(self.window, self.patch, strict=True))
    if any(p < 1 or size < 1 or size % p for size, p in pairs):
      raise ValueError(
        f"window={self.window} must be cut into whole patches of patch={self.patch}."
      )
    if self.num_tokens < 1 or self.window[0] % self.num_tokens:
      raise ValueError(
        f"num_tokens={self.num_tokens} must divide the {self.window[0]} frames of "
        f"window={self.window}: the latents' stride in time is their quotient."
      )
    if len(self.depths) != 2 or min(self.depths) < 1:
      raise ValueError(
        f"depths={self.depths} must be two numbers, each at least 1: the encoder's "
        "blocks and the decoder's."
      )

  @property
  def stride(self):
    """Pixels per latent in time, height, width."""
    return self.window[0] // self.num_tokens, *self.window[1:]

  def init(self, key, video):
    """Parameters for videos of the channels of `video`, [B, T, H, W, C]."""
    self._check(video)
    clip = jnp.zeros((1, *self.window, self.pixel_channels))
    params = ClipTokensNetwork(self).init(key, clip)["params"]
    return {**params, "latents": base.identity_statistics(self.latent_channels)}

  def encode(self, params, video):
    """Moments of the raw latents, [B, tokens, H / h, W / w, latent_channels]."""
    self._check(video)
    t, h, w = self.window
    split = "b (n t) (y h) (x w) c -> (b n y x) t h w c"
    windows = rearrange(video, split, t=t, h=h, w=w)
    mean, logvar = self._apply(params, windows, ClipTokensNetwork.encode)
    sizes = dict(y=video.shape[2] // h, x=video.shape[3] // w, n=video.shape[1] // t)
    back = lambda z: rearrange(z, "(b n y x) k c -> b (n k) y x c", **sizes)
    return base.Moments(back(mean), back(logvar))

  def latents(self, params, moments, key):
    """Latents of unit variance: a sample, or the mean if key is None."""
    return base.normalize(params["latents"], base.sample_moments(moments, key))

  def decode(self, params, latents):
    """[B, tokens, y, x, latent_channels] of unit variance -> video, float32."""
    k = self.num_tokens
    wrong = latents.ndim != 5 or latents.shape[-1] != self.latent_channels
    if wrong or latents.shape[1] % k:
      raise ValueError(
        f"latents of shape {latents.shape} must be [B, T, h, w, c] with T a multiple "
        f"of num_tokens={k} and c = latent_channels = {self.latent_channels}."
      )
    z = base.denormalize(params["latents"], latents)
    windows = rearrange(z, "b (n k) y x c -> (b n y x) k c", k=k)
    video = self._apply(params, windows, ClipTokensNetwork.decode)
    sizes = dict(y=latents.shape[2], x=latents.shape[3], n=latents.shape[1] // k)
    join = "(b n y x) t h w c -> b (n t) (y h) (x w) c"
    return rearrange(video, join, **sizes)

  def measure(self, params, moments):
    """`params` with the mean and deviation of these moments' latents as statistics."""
    return {**params, "latents": base.measure_statistics(moments)}

  def _apply(self, params, x, method):
    variables = {"params": {k: v for k, v in params.items() if k != "latents"}}
    rows = (("batch", "frames"), *(None,) * (x.ndim - 1))
    return ClipTokensNetwork(self).apply(
      variables, placement.constrain(x, rows), method=method
    )

  def _check(self, video):
    base.check_video(video, self.pixel_channels, self.window, "window")


class ClipTokensNetwork(nn.Module):
  """Encoder and decoder of single windows [N, T, H, W, C]."""

  config: ClipTokens

  def setup(self):
    c = self.config
    self.encoder = TokenTransformer(c, c.depths[0], c.num_tokens, 2 * c.latent_channels)
    size = c.patch[0] * c.patch[1] * c.patch[2] * c.pixel_channels
    num_patches = (c.window[0] // c.patch[0]) * self._rows * (c.window[2] // c.patch[2])
    self.decoder = TokenTransformer(c, c.depths[1], num_patches, size)

  @property
  def _rows(self):
    return self.config.window[1] // self.config.patch[1]

  def __call__(self, x):
    return self.decode(self.encode(x)[0])

  def encode(self, x):
    """(mean, logvar), [N, K, latent_channels] float32 each."""
    x = rearrange(patches.patchify(x, self.config.patch), "b t n c -> b (t n) c")
    mean, logvar = jnp.split(self.encoder(x), 2, axis=-1)
    return mean, base.clip_logvar(logvar + INITIAL_LOGVAR)

  def decode(self, z):
    """[N, T, H, W, C] float32."""
    frames = self.config.window[0] // self.config.patch[0]
    x = rearrange(self.decoder(z), "b (t n) c -> b t n c", t=frames)
    return patches.unpatchify(x, self.config.patch, self._rows)


class TokenTransformer(nn.Module):
  """A transformer that asks: [N, L, C] -> [N, num_outputs, features] float32.

  Its outputs are further tokens, which begin as learnt constants; all tokens attend
  to all.
  """

  config: ClipTokens
  depth: int
  num_outputs: int
  features: int

  @nn.compact
  def __call__(self, x):
    c = self.config
    dtypes = dict(dtype=c.dtype, param_dtype=c.param_dtype)
    table = lambda name, length: self.param(
      name,
      nn.with_logical_partitioning(places_normal, (None, "embed")),
      (length, c.width),
      c.param_dtype,
    ).astype(c.dtype)
    x = Linear(c.width, (None, "embed"), **dtypes, name="inputs")(x)
    x = x + table("places", x.shape[1])
    asked = table("outputs", self.num_outputs)
    asked = jnp.broadcast_to(asked, (x.shape[0], *asked.shape))
    x = jnp.concatenate([asked, x], axis=1)
    for i in range(self.depth):
      x = PreNormBlock(c, name=f"block_{i}")(x)
    x = layer_norm(x[:, : self.num_outputs])
    last = Linear(self.features, ("embed", None), **dtypes, name="last")
    return last(x).astype(jnp.float32)


class PreNormBlock(nn.Module):
  """A transformer block, normalised before each branch."""

  config: ClipTokens

  @nn.compact
  def __call__(self, x):
    c = self.config
    dtypes = dict(dtype=c.dtype, param_dtype=c.param_dtype)
    x = x + Attention(c.num_heads, **dtypes, name="attention")(layer_norm(x))
    hidden = int(c.width * c.mlp_ratio)
    h = Linear(hidden, ("embed", "mlp"), **dtypes, name="mlp_in")(layer_norm(x))
    h = jax.nn.gelu(h)
    return x + Linear(c.width, ("mlp", "embed"), **dtypes, name="mlp_out")(h)


def layer_norm(x):
  """Layer norm in float32, in the dtype of x."""
  return norms.layer_norm(x).astype(x.dtype)
