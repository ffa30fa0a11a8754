"""Rows of the contract: denoisers."""

import numpy as np
from einops import rearrange

from tests.support.published import rows_unets
from tests.support.published.case import Row, jitted, normal, of
from vdm_jax.conditioning import Conditioning, Tokens


def draw_latte(rng):
  heads, head_dim = of(rng, (2, 12), (3, 8), (4, 4), (1, 20))
  frames, patch = of(rng, 2, 3, 5), of(rng, 1, 2, 3)
  return dict(
    num_attention_heads=heads,
    attention_head_dim=head_dim,
    in_channels=of(rng, 3, 4),
    out_channels=of(rng, 8, None),
    num_layers=of(rng, 1, 2, 3),
    cross_attention_dim=heads * head_dim,
    attention_bias=of(rng, True, False),
    sample_size=patch * of(rng, 4, 5, 7),
    patch_size=patch,
    activation_fn=of(rng, "gelu-approximate", "geglu", "swiglu", "linear-silu"),
    norm_type="ada_norm_single",
    norm_elementwise_affine=of(rng, False, True),
    norm_eps=of(rng, 1e-6, 1e-5),
    caption_channels=of(rng, 7, 16),
    video_length=frames,
  )


def compare_latte(theirs, module, params, rng, apply):
  """A clip, a masked text, a single frame, and frames without temporal attention."""
  c = theirs.config
  rows, columns = (c.patch_size * int(n) for n in rng.integers(2, 6, 2))
  x = normal(rng, 2, c.in_channels, c.video_length, rows, columns)
  text = normal(rng, 2, 6, c.caption_channels)
  t = np.array([3, 941])
  mask = np.arange(6) < np.array([[4], [6]])
  video = lambda y: rearrange(y, "b c t h w -> b t h w c")

  def ours(x, text, mask, t=t, apply=apply):
    cond = Conditioning(tokens={"text": Tokens(text, mask)})
    return apply(params, video(x), t.astype(np.float32), cond)

  def expected(x, mask, **kwargs):
    bias = (1.0 - np.repeat(mask, x.shape[2], axis=0)[:, None]) * -1e4
    bias = bias.astype(np.float32)
    return video(theirs(x, t, text, encoder_attention_mask=bias, **kwargs)["sample"])

  everything = np.ones_like(mask)
  yield ours(x, text, everything), expected(x, everything)
  masked = ours(x, text, mask)
  yield masked, expected(x, mask)
  # A mask is the text cut short, and no neighbour of a clip matters.
  cut = theirs(x[:1], t[:1], text[:1, : mask[0].sum()])["sample"]
  yield masked[:1], video(cut)
  still = x[:, :, :1]
  yield ours(still, text, mask), expected(still, mask)
  # Their enable_temporal_attentions=False: each frame as an image of its own.
  frames = rearrange(x, "b c t h w -> (b t) c 1 h w")
  each = lambda y: np.repeat(y, x.shape[2], axis=0)
  by_itself = jitted(module.clone(one_frame="image"))
  out = ours(frames, each(text), each(mask), each(t), by_itself)
  out = rearrange(out, "(b t) 1 h w c -> b t h w c", b=2)
  yield out, expected(x, mask, enable_temporal_attentions=False)


def draw_dit(rng):
  heads, head_dim = of(rng, (2, 12), (3, 8), (4, 4), (1, 20))
  patch = of(rng, 1, 2, 3)
  return dict(
    num_attention_heads=heads,
    attention_head_dim=head_dim,
    in_channels=of(rng, 3, 4),
    out_channels=of(rng, 8, None),
    num_layers=of(rng, 1, 2, 3),
    attention_bias=of(rng, True, False),
    sample_size=patch * of(rng, 4, 5, 7),
    patch_size=patch,
    activation_fn=of(rng, "gelu-approximate", "geglu", "geglu-approximate"),
    num_embeds_ada_norm=of(rng, 5, 10),
    norm_elementwise_affine=of(rng, False, True),
    norm_eps=of(rng, 1e-6, 1e-5),
  )


def compare_dit(theirs, module, params, rng, apply):
  """Pictures, of the size of its config and of another one."""
  c = theirs.config
  for size in (c.sample_size, c.sample_size + c.patch_size):
    x = normal(rng, 3, c.in_channels, size, size)
    t, label = np.array([0, 17, 998]), np.array([1, c.num_embeds_ada_norm, 3])
    cond = Conditioning(vectors={"label": label})
    video = rearrange(x, "b c h w -> b 1 h w c")
    out = apply(params, video, t.astype(np.float32), cond)
    expected = theirs(x, t, label)["sample"]
    yield rearrange(out, "b 1 h w c -> b c h w"), expected


ROWS = [
  Row("diffusers.LatteTransformer3DModel", draw_latte, compare_latte),
  Row("diffusers.DiTTransformer2DModel", draw_dit, compare_dit),
  *rows_unets.ROWS,
]
