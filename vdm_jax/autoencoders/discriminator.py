"""The patch discriminator of pix2pix, on frames or clips, and its hinge losses.

https://arxiv.org/abs/1611.07004, https://arxiv.org/abs/1705.02894; with convolutions
along time as in https://arxiv.org/abs/2304.08818.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from vdm_jax.layers import placement
from vdm_jax.layers.convs import Conv
from vdm_jax.layers.module import TypedModule
from vdm_jax.layers.resnet import GroupNorm

dcgan_normal = nn.initializers.normal(0.02)


class PatchDiscriminator(TypedModule):
  """Clips [B, T, H, W, C] -> float32 logits of patches of each frame, [B, T, h, w, 1].

  The original normalises with batch statistics. Here it is a group norm of each frame,
  or of each clip where a patch reaches over several frames: running statistics would be
  a second kind of parameters that no gradient moves, and with batch statistics a
  clip's logits depend on its batch and on the mesh.

  Attributes:
    width: channels of the first layer; doubled by each next one, up to eight times.
    depth: layers that halve the size. A patch is 70 pixels wide at 3, 34 at 2, 16 at 1.
    time_kernel: frames of each kernel, odd. A patch is one frame long at 1, and at 3,
      where motion counts too, 2 depth + 5.
    groups: of the group norms.
  """

  width: int = 64
  depth: int = 3
  time_kernel: int = 1
  groups: int = 8

  def __post_init__(self):
    super().__post_init__()
    if self.time_kernel < 1 or self.time_kernel % 2 == 0:
      raise ValueError(f"time_kernel={self.time_kernel} must be odd, and at least 1.")

  @nn.compact
  def __call__(self, x):
    self._check(x)
    # Whole frames, or clips, on each device: patches are too small to be cut in strips.
    frames = x.shape[1]
    if self.time_kernel == 1:
      x = rearrange(x, "b t h w c -> (b t) h w c")
      x = placement.constrain(x, (("batch", "frames"), None, None, None))
    else:
      x = placement.constrain(x, ("batch", None, None, None, None))
    along = [] if self.time_kernel == 1 else [self.time_kernel]
    conv = lambda features, stride, name: Conv(
      features,
      (*along, 4, 4),
      (*(1 for _ in along), stride, stride),
      (*((t // 2, t // 2) for t in along), (1, 1), (1, 1)),
      kernel_init=dcgan_normal,
      **self.dtypes,
      name=name,
    )
    activate = lambda x: nn.leaky_relu(x, 0.2)
    x = activate(conv(self.width, 2, "conv_in")(x))
    for i in range(1, self.depth + 1):
      stride = 2 if i < self.depth else 1
      x = conv(self.width * min(2**i, 8), stride, f"conv_{i}")(x)
      norm = GroupNorm(self.groups, 1e-5, **self.dtypes, name=f"norm_{i}")
      rows = rearrange(x, "n ... h w c -> n (... h) w c")
      x = activate(norm(rows).reshape(x.shape))
    x = conv(1, 1, "conv_out")(x).astype(jnp.float32)
    return x if along else rearrange(x, "(b t) h w c -> b t h w c", t=frames)

  def _check(self, x):
    if x.ndim != 5:
      raise ValueError(f"A discriminator takes [B, T, H, W, C]; got shape {x.shape}.")
    smallest = 3 * 2**self.depth
    if min(x.shape[2:4]) < smallest:
      raise ValueError(
        f"Frames of {x.shape[2]} x {x.shape[3]} pixels leave no patch to a "
        f"discriminator of depth={self.depth}, which needs {smallest}; take a smaller "
        "depth."
      )


def discriminator_loss(real, fake):
  """Hinge loss, a scalar: mean(relu(1 - real) + relu(1 + fake)) / 2.

  `real` and `fake` are logits of real and generated clips, of any shape.
  """
  return 0.5 * (jax.nn.relu(1.0 - real).mean() + jax.nn.relu(1.0 + fake).mean())


def generator_loss(fake):
  """The generator's adversarial loss, a scalar: minus the mean of logits `fake`."""
  return -fake.mean()
