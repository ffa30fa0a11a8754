"""A clip as a few tokens: latents without a position or a frame of their own.

TiTok (https://arxiv.org/abs/2406.07550), with time and with Gaussian latents: encoder
and decoder are transformers over the patches of a clip and `num_tokens` more tokens,
and only the latter are the latents. What the clip's frames have in common is then
encoded once; the decoder makes all frames from it, so they agree.

The input is pixels, or the latents of another autoencoder (`stacked.py`).
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

# The prior's is 0: the posterior starts narrow, so that the decoder uses the latents.
INITIAL_LOGVAR = -4.0
places_normal = nn.initializers.normal(0.5)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipTokens:
  """An autoencoder of clips to `num_tokens` tokens each, by transformers (TiTok).

  A longer or larger video is encoded window by window. The tokens of a window are
  along time in the latents: [B, num_tokens, 1, 1, latent_channels].

  Attributes:
    window: (frames, height, width) of a clip.
    patch: (frames, height, width) of a patch, one token each; divides the window.
    num_tokens: latent tokens of a window; divides its frames.
    latent_channels: of each token.
    pixel_channels: of the video, or of the latents that are its input.
    width: channels of the transformers.
    depths: (encoder's, decoder's) numbers of blocks.
    num_heads: of attention.
    mlp_ratio: width of the MLPs over `width`.
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

  dtypes = base.dtypes
  latents = base.normalized_latents
  with_latent_statistics = base.with_latent_statistics

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
    """Pixels per latent in (time, height, width)."""
    return self.window[0] // self.num_tokens, *self.window[1:]

  def init(self, key, video):
    """New parameters, a nested dict; `video` [B, T, H, W, C] is checked only."""
    self._check(video)
    clip = jnp.zeros((1, *self.window, self.pixel_channels))
    params = ClipTokensNetwork(self).init(key, clip)["params"]
    return {**params, "latents": base.identity_statistics(self.latent_channels)}

  def encode(self, params, video):
    """Moments of raw latents [B, t, h, w, c] of a video [B, T, H, W, C] in [-1, 1]."""
    self._check(video)
    t, h, w = self.window
    split = "b (n t) (y h) (x w) c -> (b n y x) t h w c"
    windows = rearrange(video, split, t=t, h=h, w=w)
    mean, logvar = self._apply(params, windows, ClipTokensNetwork.encode)
    sizes = dict(y=video.shape[2] // h, x=video.shape[3] // w, n=video.shape[1] // t)
    back = lambda z: rearrange(z, "(b n y x) k c -> b (n k) y x c", **sizes)
    return base.Moments(back(mean), back(logvar))

  def decode(self, params, latents):
    """The video [B, T, H, W, C], float32, unclipped, of latents of unit variance."""
    k, z = self.num_tokens, base.denormalize_latents(self, params, latents)
    if z.shape[1] % k:
      raise ValueError(
        f"latents of shape {z.shape} must be [B, T, h, w, c] with T a multiple of "
        f"num_tokens={k}."
      )
    windows = rearrange(z, "b (n k) y x c -> (b n y x) k c", k=k)
    video = self._apply(params, windows, ClipTokensNetwork.decode)
    sizes = dict(y=latents.shape[2], x=latents.shape[3], n=latents.shape[1] // k)
    join = "(b n y x) t h w c -> b (n t) (y h) (x w) c"
    return rearrange(video, join, **sizes)

  def _apply(self, params, x, method):
    variables = base.network_variables(params)
    rows = (("batch", "frames"), *(None,) * (x.ndim - 1))
    return ClipTokensNetwork(self).apply(
      variables, placement.constrain(x, rows), method=method
    )

  def _check(self, video):
    base.check_video(video, self.pixel_channels, self.window, "window")


class ClipTokensNetwork(nn.Module):
  """Windows [N, T, H, W, C] -> moments [N, num_tokens, c] -> windows: a ClipTokens'."""

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
    """(mean, logvar), float32 [N, num_tokens, latent_channels] each, of windows x."""
    x = rearrange(patches.patchify(x, self.config.patch), "b t n c -> b (t n) c")
    mean, logvar = jnp.split(self.encoder(x), 2, axis=-1)
    return mean, base.clip_logvar(logvar + INITIAL_LOGVAR)

  def decode(self, z):
    """Windows [N, T, H, W, C] float32 of raw latents z [N, num_tokens, c]."""
    frames = self.config.window[0] // self.config.patch[0]
    x = rearrange(self.decoder(z), "b (t n) c -> b t n c", t=frames)
    return patches.unpatchify(x, self.config.patch, self._rows)


class TokenTransformer(nn.Module):
  """A transformer with query tokens: [N, L, C] -> [N, num_outputs, features] float32.

  The queries are learnt constants; queries and inputs attend to each other, and the
  output is that of the queries.

  Attributes:
    depth: number of blocks.
    num_outputs, features: number of queries, and channels of the output.
  """

  config: ClipTokens
  depth: int
  num_outputs: int
  features: int

  @nn.compact
  def __call__(self, x):
    c = self.config
    table = lambda name, length: self.param(
      name,
      nn.with_logical_partitioning(places_normal, (None, "embed")),
      (length, c.width),
      c.param_dtype,
    ).astype(c.dtype)
    x = Linear(c.width, (None, "embed"), **c.dtypes, name="inputs")(x)
    x = x + table("places", x.shape[1])
    queries = table("outputs", self.num_outputs)
    queries = jnp.broadcast_to(queries, (x.shape[0], *queries.shape))
    x = jnp.concatenate([queries, x], axis=1)
    for i in range(self.depth):
      x = PreNormBlock(c, name=f"block_{i}")(x)
    x = layer_norm(x[:, : self.num_outputs])
    last = Linear(self.features, ("embed", None), **c.dtypes, name="last")
    return last(x).astype(jnp.float32)


class PreNormBlock(nn.Module):
  """A transformer block of attention and MLP with layer norm before each, [N, L, C]."""

  config: ClipTokens

  @nn.compact
  def __call__(self, x):
    c = self.config
    x = x + Attention(c.num_heads, **c.dtypes, name="attention")(layer_norm(x))
    hidden = int(c.width * c.mlp_ratio)
    h = Linear(hidden, ("embed", "mlp"), **c.dtypes, name="mlp_in")(layer_norm(x))
    h = jax.nn.gelu(h)
    return x + Linear(c.width, ("mlp", "embed"), **c.dtypes, name="mlp_out")(h)


def layer_norm(x):
  """Layer norm of x [..., C] without parameters, in float32, back in x's dtype."""
  return norms.layer_norm(x).astype(x.dtype)
