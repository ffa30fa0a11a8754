"""U-Nets of published systems: each function returns the Architecture of a UNet3D.

  UNet3D(architectures.svd())                        # 1,524,623,082 parameters
  UNet3D(architectures.svd(channels=(32, 64), attention=(True, False), head_dim=16))

The names of heads are confused in the originals: SD 1's `attention_head_dim` 8 is the
number of heads. Here num_heads is that number and head_dim the width of one.
"""

import dataclasses

from vdm_jax.models.unet.unet3d import Architecture, TransformerConfig

MOTION_SUBLAYERS = ("temporal_self", "temporal_self", "feed_forward")


def stable_diffusion(*, num_heads=8, **fields):
  """Architecture for UNet3D: Stable Diffusion 1's. Keyword `fields` override it."""
  spatial = TransformerConfig(num_heads=num_heads, projection="convolution")
  return Architecture(**dict(spatial=spatial) | fields)


def animatediff(*, version=2, num_heads=8, max_frames=None, norm="frame", **fields):
  """Architecture for UNet3D: AnimateDiff, Stable Diffusion 1 with motion modules.

  Args:
    version: 1, 2 or 3. Version 1 takes the statistics of norms in residual blocks over
      the clip, and has 24 positions for 32; only version 2 has a module in the middle.
    max_frames: number of positions in time; None: the version's.
    norm: statistics of the motion modules' norm, "frame" or as in diffusers "clip".
    **fields: override the Architecture's.
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
  """Architecture for UNet3D: SparseCtrl's, for a ControlNet with `ignores_x`.

  Of AnimateDiff 3; motion modules have one attention, max_frames positions in time, and
  statistics of a norm over each "frame" or "clip" (`norm`).
  Keyword `fields` override the Architecture's.
  """
  own = animatediff(version=3, num_heads=num_heads, max_frames=max_frames, norm=norm)
  motion = dataclasses.replace(own.temporal, block=("temporal_self", "feed_forward"))
  return dataclasses.replace(own, **dict(temporal=motion) | fields)


def svd(*, head_dim=64, num_heads=None, **fields):
  """Architecture for UNet3D: Stable Video Diffusion's; its text is one image token.

  `epsilon` is the original's 1e-5; diffusers has a `level_epsilon` of 1e-6, too.
  num_heads replaces head_dim. Keyword `fields` override the Architecture's.
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
  """Architecture for UNet3D: AlignYourLatents'; `fields` override it.

  SVD's with only "fps" as a vector: the paper has no code; these are the layers that
  its authors published with SVD. Known frames enter as the mask channel, and as latents
  where it is 1.
  """
  own = dict(joint=(), vectors=("fps",), mask_channel=True)
  return svd(head_dim=head_dim, **own | fields)


def modelscope(*, head_dim=64, **fields):
  """Architecture for UNet3D: ModelScope's text-to-video. `fields` override it."""
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
  """Architecture for UNet3D: VideoCrafter 2, or VideoCrafter 1's image-to-video.

  The latter has `image_keys`: cross-attention with keys of its own for image tokens.
  Keyword `fields` override the Architecture's.
  """
  spatial = TransformerConfig(head_dim=head_dim, image_keys=image_keys)
  own = dict(spatial=spatial, vectors=("fps",))
  return modelscope(head_dim=head_dim, **own | fields)


def videocrafter1(*, head_dim=64, max_frames=16, fps=True, **fields):
  """Architecture for UNet3D: VideoCrafter 1's text-to-video.

  The model 1024 pixels wide has the frame rate as a condition (`fps`), that of 512 not.
  max_frames: the largest distance of relative positions; `fields` override other ones.
  """
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
  """Architecture for UNet3D: LVDM without a text, of 4 latents (16 frames).

  max_frames: the largest distance of relative positions; `fields` override other ones.
  """
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
  """Architecture for UNet3D: LVDM's prediction (4 latents) and interpolation (5).

  Known frames are noised: vectors["augmentation"] is their integer level, 0 .. 250.
  max_frames: the largest distance of relative positions; `fields` override other ones.
  """
  own = dict(tables=(("augmentation", 251),), mask_channel=True)
  return lvdm(max_frames=max_frames, **own | fields)


def lvdm_text(*, num_heads=8, max_frames=16, **fields):
  """Architecture for UNet3D: LVDM's text-to-video.

  max_frames: the largest distance of relative positions; `fields` override other ones.
  """
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
