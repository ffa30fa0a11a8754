"""Rows of the contract: U-Nets, of images and of videos."""

import functools

import numpy as np
from einops import rearrange, repeat

from tests.support import suite
from tests.support.published.case import Recorded, Row, normal, of
from vdm_jax.conditioning import Conditioning, Tokens

FRAMES = 3
VIDEO, BACK = "b t h w c -> b c t h w", "b c t h w -> b t h w c"
IMAGES = "b t h w c -> (b t) c h w"
SPOIL = r"(conv1|conv2|to_q|to_v|proj_in|linear_1|ff\.net\.2)\.weight$"


def draw(rng, end):
  """Two levels, one of them with attention; their order and widths vary."""
  first = bool(rng.integers(2))
  kinds = [("CrossAttn" if here else "") for here in (first, not first)]
  return dict(
    # One channel in each group of a norm hides what time adds to it: 32 nowhere.
    block_out_channels=of(rng, (32, 64), (64, 32), (64, 64)),
    down_block_types=tuple(f"{kind}DownBlock{end}" for kind in kinds),
    up_block_types=tuple(f"{kind}UpBlock{end}" for kind in kinds[::-1]),
    layers_per_block=of(rng, 1, 2),
    cross_attention_dim=of(rng, 7, 24),
    in_channels=of(rng, 4, 9),
    out_channels=of(rng, 4, 3),
  )


def draw_image(rng):
  arguments = draw(rng, "2D")
  # As in Stable Diffusion 1, the number of heads; as in 2, a number for each level.
  each = tuple(width // 16 for width in arguments["block_out_channels"])
  return arguments | dict(
    attention_head_dim=of(rng, 4, 8, each, each),
    norm_num_groups=of(rng, 32, 16),
    norm_eps=of(rng, 1e-5, 1e-3),
    use_linear_projection=of(rng, True, False),
  )


def draw_motion(rng):
  return draw(rng, "Motion") | dict(
    num_attention_heads=of(rng, 4, 8),
    motion_num_attention_heads=of(rng, 2, 4),
    motion_max_seq_length=of(rng, 8, 24),
    use_motion_mid_block=of(rng, True, False),
    use_linear_projection=of(rng, True, False),
    norm_num_groups=of(rng, 32, 16),
  )


def draw_svd(rng):
  arguments = draw(rng, "SpatioTemporal")
  sizes = tuple(width // 16 for width in arguments["block_out_channels"])
  frequencies = of(rng, 8, 32)
  return arguments | dict(
    num_attention_heads=sizes,
    addition_time_embed_dim=frequencies,
    projection_class_embeddings_input_dim=3 * frequencies,
  )


def draw_control(rng, end="2D"):
  arguments = draw(rng, end)
  for name in ("up_block_types", "out_channels"):
    arguments.pop(name)
  return arguments | dict(
    attention_head_dim=of(rng, 4, 8),
    conditioning_channels=of(rng, 3, 4),
    conditioning_embedding_out_channels=of(rng, (4, 8), (4, 6, 8)),
    norm_num_groups=of(rng, 32, 16),
    use_linear_projection=of(rng, True, False),
  )


def draw_sparse(rng):
  return draw_control(rng, "Motion") | dict(
    motion_num_attention_heads=of(rng, 2, 4),
    motion_max_seq_length=of(rng, 8, 24),
    use_simplified_condition_embedding=of(rng, True, False),
  )


def draw_clips(rng, **more):
  return draw(rng, "3D") | dict(attention_head_dim=of(rng, 8, 16)) | more


def inputs(theirs, rng):
  """(x [B, T, H, W, C], t, tokens [B, L, D]): a picture that halves unevenly."""
  c = theirs.config
  x = normal(rng, 2, FRAMES, 6, 10, c.in_channels)
  return x, np.array([3, 941]), normal(rng, 2, 5, c.cross_attention_dim)


def run(apply, params, x, t, tokens, name="text", **vectors):
  cond = Conditioning(tokens=unmasked(**{name: tokens}), vectors=vectors)
  return apply(params, x, t.astype(np.float32), cond)


def unmasked(**tokens):
  return {k: Tokens(x, np.ones(x.shape[:2], bool)) for k, x in tokens.items()}


def compare_image(theirs, module, params, rng, apply):
  """Every frame is an image."""
  x, t, text = inputs(theirs, rng)
  each = [repeat(a, "b ... -> (b t) ...", t=FRAMES) for a in (t, text)]
  out = theirs(rearrange(x, IMAGES), *each)["sample"]
  out = rearrange(out, "(b t) c h w -> b t h w c", t=FRAMES)
  yield run(apply, params, x, t, text), out


def compare_video(theirs, module, params, rng, apply):
  """Clips; theirs of AnimateDiff wants the text for each frame."""
  x, t, text = inputs(theirs, rng)
  motion = theirs.row.title == "UNetMotionModel"
  each = repeat(text, "b ... -> (b t) ...", t=FRAMES) if motion else text
  out = theirs(rearrange(x, VIDEO), t, each)["sample"]
  yield run(apply, params, x, t, text), rearrange(out, BACK)


def compare_svd(theirs, module, params, rng, apply):
  """Clips, and in the complete suite clips of one frame of the class itself."""
  one = () if isinstance(theirs, Recorded) else suite.only_complete(1)
  for frames in (FRAMES, *one):
    x, t, image = inputs(theirs, rng)
    x, image, t = x[:, :frames], image[:, :1], t / 200
    numbers = np.array([[6, 127, 0.02], [24, 30, 0.5]], np.float32)
    video = rearrange(x, "b t h w c -> b t c h w")
    # A batch of one: theirs shares one time.
    samples = [
      theirs(video[i : i + 1], t[i], image[i : i + 1], numbers[i : i + 1])["sample"]
      for i in range(2)
    ]
    names = ("fps", "motion", "augmentation")
    vectors = dict(zip(names, numbers.T, strict=True))
    out = run(apply, params, x, t, image, "image", **vectors)
    yield out, rearrange(np.concatenate(samples), "b t c h w -> b t h w c")


def compare_control(theirs, module, params, rng, apply):
  """Residuals of images, and of clips with pictures for some frames."""
  x, t, text = inputs(theirs, rng)
  c, sparse = theirs.config, theirs.row.title == "SparseControlNetModel"
  factor = 2 ** (len(module.widths) - 1) if module.widths else 1
  shape = (2, FRAMES, 6 * factor, 10 * factor)
  hint = normal(rng, *shape, c.conditioning_channels)
  mask = np.zeros((*shape, 1), np.float32)
  mask[:, [0, 2]] = 1
  each = [repeat(a, "b ... -> (b t) ...", t=FRAMES) for a in (t, text)]
  if sparse:
    video = lambda x: rearrange(x, VIDEO)
    arguments = video(x), t, each[1], video(hint)
    residuals = theirs(*arguments, conditioning_mask=video(mask))
    hint = np.concatenate([hint, mask], axis=-1)
  else:
    residuals = theirs(rearrange(x, IMAGES), *each, rearrange(hint, IMAGES))
  cond = Conditioning(tokens=unmasked(text=text), hints={module.hint: hint})
  ours, last = apply(params, x, t.astype(np.float32), cond)
  for out, residual in zip([*ours, last], residuals.values(), strict=True):
    yield rearrange(np.asarray(out), IMAGES), residual


def compare_i2vgen(theirs, module, params, rng, apply):
  """Pictures of latents that differ from frame to frame, and sizes of their own."""
  x, t, text = inputs(theirs, rng)
  latents, fps = normal(rng, *x.shape), np.array([8, 30])
  image = normal(rng, 2, 1, text.shape[-1])
  video = lambda x: rearrange(x, VIDEO)
  sample = theirs(video(x), t, fps, video(latents), image, text)["sample"]
  cond = Conditioning(
    tokens=unmasked(text=text, image=image),
    channels={"image": latents},
    vectors={"fps": fps.astype(np.float32)},
  )
  yield apply(params, x, t.astype(np.float32), cond), rearrange(sample, BACK)


ROWS = [
  Row(f"diffusers.{name}", drawn, compare, SPOIL, seeds=2)
  for name, drawn, compare in (
    ("UNet2DConditionModel", draw_image, compare_image),
    ("UNetMotionModel", draw_motion, compare_video),
    ("UNet3DConditionModel", draw_clips, compare_video),
    ("UNetSpatioTemporalConditionModel", draw_svd, compare_svd),
    ("ControlNetModel", draw_control, compare_control),
    ("SparseControlNetModel", draw_sparse, compare_control),
    ("I2VGenXLUNet", functools.partial(draw_clips, in_channels=4), compare_i2vgen),
  )
]
