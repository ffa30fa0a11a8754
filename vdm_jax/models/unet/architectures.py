"""U-Nets of published systems: each function returns its Architecture.

Keyword arguments beyond the named ones replace fields of the Architecture.

  UNet3D(architectures.svd())                        # 1,524,623,082 parameters
  UNet3D(architectures.svd(channels=(32, 64), attention=(True, False), head_dim=16))

The names of heads are confused in the originals: SD 1's `attention_head_dim` 8 is the
number of heads. Here num_heads is that number and head_dim the width of one.
"""

import dataclasses

from vdm_jax.models.unet.unet3d import Architecture, TransformerConfig

MOTION_SUBLAYERS = ("temporal_self", "temporal_self", "feed_forward")


def stable_diffusion(*, num_heads=8, **fields):
  """Stable Diffusion 1: each frame is an image."""
  spatial = TransformerConfig(num_heads=num_heads, projection="convolution")
  return Architecture(**dict(spatial=spatial) | fields)


def animatediff(*, version=2, num_heads=8, max_frames=None, norm="frame", **fields):
  """Stable Diffusion 1 with motion modules in every cell.

  Version 1 takes the statistics of norms in residual blocks over the clip, and has 24
  positions for 32; version 2 alone has a module in the middle.

  Args:
    norm: the statistics of the motion modules' norm; "clip" in diffusers.
  """
  if version not in (1, 2, 3):
    raise ValueError(f"version={version}; AnimateDiff has versions 1, 2 and 3.")
  motion = TransformerConfig(
    block=MOTION_SUBLAYERS,
    num_heads=num_heads,
    norm_over=norm,
    position="sinusoid",
    max_frames=max_frames or (24 if version == 1 else 32),
    zero_init=True,
  )
  own = dict(
    temporal=motion,
    temporal_at="levels and middle" if version == 2 else "levels",
    norm_over="clip" if version == 1 else "frame",
  )
  return stable_diffusion(num_heads=num_heads, **own | fields)


def sparse_control(*, num_heads=8, max_frames=32, norm="frame", **fields):
  """SparseCtrl's network, for AnimateDiff version 3, without its decoder.

  One attention in each motion module; for a ControlNet with `ignores_x`.
  """
  own = animatediff(version=3, num_heads=num_heads, max_frames=max_frames, norm=norm)
  motion = dataclasses.replace(own.temporal, block=("temporal_self", "feed_forward"))
  return dataclasses.replace(own, **dict(temporal=motion) | fields)


def svd(*, head_dim=64, num_heads=None, **fields):
  """Stable Video Diffusion; its text is one image token, see UNet3D's `cond`.

  `epsilon` is the original's 1e-5; diffusers has a `level_epsilon` of 1e-6 beside it.
  `num_heads` takes the place of `head_dim`.
  """
  heads = dict(num_heads=num_heads) if num_heads else dict(head_dim=head_dim)
  along = TransformerConfig(
    **heads,
    block=("feed_forward", "temporal_self", "temporal_cross", "feed_forward"),
    position="perceptron",
  )
  own = dict(
    spatial=TransformerConfig(**heads),
    temporal=along,
    temporal_at="inside",
    temporal_resnet="alpha",
    joint=("fps", "motion", "augmentation"),
  )
  return Architecture(**own | fields)


def video_ldm(*, head_dim=64, **fields):
  """AlignYourLatents: SVD's layers along time, and no vector but the frame rate.

  The paper has no code; these are the layers that its authors published with SVD. Known
  frames enter as the mask channel, and as latents where it is 1.
  """
  own = dict(joint=(), vectors=("fps",), mask_channel=True)
  return svd(head_dim=head_dim, **own | fields)


def modelscope(*, head_dim=64, **fields):
  """ModelScope's text-to-video (diffusers' UNet3DConditionModel)."""
  along = TransformerConfig(block=MOTION_SUBLAYERS, head_dim=head_dim, norm_over="clip")
  first = dict(block=MOTION_SUBLAYERS, num_heads=8, head_dim=head_dim, norm_over="clip")
  own = dict(
    spatial=TransformerConfig(head_dim=head_dim),
    temporal=along,
    temporal_in=TransformerConfig(**first),
    temporal_resnet="four",
  )
  return Architecture(**own | fields)


def videocrafter2(*, head_dim=64, image_keys=False, **fields):
  """VideoCrafter 2, and with `image_keys` VideoCrafter 1's image-to-video."""
  spatial = TransformerConfig(head_dim=head_dim, image_keys=image_keys)
  own = dict(spatial=spatial, vectors=("fps",))
  return modelscope(head_dim=head_dim, **own | fields)


def videocrafter1(*, head_dim=64, max_frames=16, fps=True, **fields):
  """VideoCrafter 1's text-to-video, 1024 pixels wide; the 512 wide one has no `fps`."""
  along = dict(
    block=MOTION_SUBLAYERS,
    head_dim=head_dim,
    norm_over="clip",
    position="relative",
    max_frames=max_frames,
  )
  own = dict(
    spatial=TransformerConfig(head_dim=head_dim),
    temporal=TransformerConfig(**along),
    temporal_in=TransformerConfig(num_heads=8, **along),
    vectors=("fps",) if fps else (),
  )
  return Architecture(**own | fields)


def lvdm(*, num_heads=4, max_frames=4, **fields):
  """LVDM without a text, of short clips: 16 frames are 4 latents."""
  spatial = TransformerConfig(
    block=("spatial_self", "temporal_self"),
    num_heads=num_heads,
    projection="none",
    position="transposed",
    max_frames=max_frames,
  )
  own = dict(
    channels=(256, 512, 768, 1024),
    layers=3,
    attention=(False, True, True, True),
    spatial=spatial,
    norm_over="clip",
    scale_shift=True,
    times="clip",
  )
  return Architecture(**own | fields)


def lvdm_long(*, max_frames=4, **fields):
  """LVDM's prediction (4 latents) and interpolation (5) of known, noised frames.

  vectors["augmentation"] is the integer level of noise in the known frames, 0 .. 250.
  """
  own = dict(tables=(("augmentation", 251),), mask_channel=True)
  return lvdm(max_frames=max_frames, **own | fields)


def lvdm_text(*, num_heads=8, max_frames=16, **fields):
  """LVDM's text-to-video."""
  spatial = TransformerConfig(
    block=(
      "spatial_self",
      "temporal_self",
      "spatial_cross",
      "temporal_self",
      "feed_forward",
    ),
    num_heads=num_heads,
    norm_over="clip",
    projection="convolution",
    position="relative",
    max_frames=max_frames,
  )
  return Architecture(**dict(spatial=spatial, norm_over="clip", times="clip") | fields)
