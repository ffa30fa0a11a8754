"""Autoencoders: rows of test_published.py, drawn over the space of their configs."""

import dataclasses
import functools

import jax
import numpy as np
from einops import rearrange

from tests.support.published.case import Row

FRAMES, LATENT = 3, (3, 5)  # odd, and unequal, T, h, w
IMAGES = "b t h w c -> (b t) c h w"


def shared(rng, groups, most):
  """Fields of both: 1 to `most` levels, each of its own multiple of `groups`."""
  levels = int(rng.integers(1, most + 1))
  factor = lambda: int(rng.choice([0.1, 0.18215, 0.13025, 0.3611, 1.5305]) * 1e5) / 1e5
  return dict(
    in_channels=int(rng.choice([1, 3, 4])),
    out_channels=int(rng.choice([3, 4])),
    block_out_channels=[int(groups * k) for k in rng.integers(1, 4, levels)],
    down_block_types=["DownEncoderBlock2D"] * levels,
    layers_per_block=int(rng.integers(1, 4)),
    latent_channels=int(rng.choice([2, 4, 5, 8])),
    sample_size=int(rng.choice([32, 64])),
    scaling_factor=factor(),
    force_upcast=bool(rng.integers(2)),
  )


def draw_image(rng):
  groups = int(rng.choice([1, 2, 4, 8]))
  fields = shared(rng, groups, 4)
  channels = fields["latent_channels"]
  fields |= [
    {},
    dict(shift_factor=0.0609),
    dict(
      latents_mean=rng.normal(size=channels).round(4).tolist(),
      latents_std=rng.uniform(0.5, 9.0, channels).round(4).tolist(),
    ),
  ][int(rng.integers(3))]
  return fields | dict(
    up_block_types=["UpDecoderBlock2D"] * len(fields["block_out_channels"]),
    norm_num_groups=groups,
    act_fn=str(rng.choice(["silu", "silu", "swish", "gelu", "relu", "mish"])),
    use_quant_conv=bool(rng.integers(2)),
    use_post_quant_conv=bool(rng.integers(2)),
    mid_block_add_attention=bool(rng.integers(2)),
  )


def compare_image(theirs, module, params, rng, apply):
  """Whole, then in tiles of 4 x 4 latents and frame by frame."""
  whole = compare(theirs, module, params, rng, {})
  tile, (_, stride, _) = 4, module.stride

  def in_tiles(original):
    original.tile_latent_min_size, original.tile_sample_min_size = tile, tile * stride
    original.enable_tiling()
    original.enable_slicing()

  theirs.configure(in_tiles)
  cut = dataclasses.replace(module, tile=tile, chunk=1)
  tiled = compare(theirs, cut, params, rng, {})
  theirs.configure(lambda x: (x.disable_tiling(), x.disable_slicing()))
  return whole + tiled


@functools.lru_cache
def jitted(module):
  """(params, video, latents) -> (its moments, their video)."""
  return jax.jit(lambda p, x, z: (module.encode(p, x), module.decode(p, z)))


def compare(theirs, module, params, rng, call):
  """Mean and log-variance of a video, the video of latents of unit variance."""
  size = [n * s for n, s in zip(LATENT, module.stride[1:], strict=True)]
  noise = lambda *shape: rng.standard_normal(shape).astype(np.float32)
  video = noise(2, FRAMES, *size, module.pixel_channels)
  latents = noise(2, FRAMES, *LATENT, module.latent_channels)
  moments, decoded = jitted(module)(params, video, latents)
  c = theirs.config
  deviation = np.asarray(c.get("latents_std") or 1.0) / c["scaling_factor"]
  z = latents * deviation + (c.get("latents_mean") or c.get("shift_factor") or 0.0)
  images = lambda x: rearrange(x, IMAGES).astype(np.float32)
  back = lambda x: rearrange(x, "(b t) c h w -> b t h w c", b=2)
  posterior = theirs(images(video), method="encode")
  expected = theirs(images(z), method="decode", **call)["sample"]
  return [
    (np.asarray(moments.mean), back(posterior["mean"])),
    (np.asarray(moments.logvar), back(posterior["logvar"])),
    (np.asarray(decoded), back(expected)),
  ]


ROWS = (
  Row(
    "diffusers.AutoencoderKL",
    draw_image,
    compare_image,
    r"conv_in\.weight|conv2\.weight",
    recorded=1,
  ),
  Row(
    "diffusers.AutoencoderKLTemporalDecoder",
    lambda rng: shared(rng, 32, 3),
    lambda *args: compare(*args[:-1], dict(num_frames=FRAMES)),
    r"up_blocks.*temporal_res_block\.conv2\.weight|time_conv_out\.weight",
    recorded=6,
  ),
)
