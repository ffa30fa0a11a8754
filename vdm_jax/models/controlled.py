"""Control networks: a copy of a U-Net's encoder, conditioned on an image-like hint.

ControlNet, https://arxiv.org/abs/2302.05543, also has the noisy video as input;
SparseCtrl, https://arxiv.org/abs/2311.16933, has the hints of some frames only, and
layers along time that carry them to the other frames.
"""

import flax.linen as nn
import jax.numpy as jnp

from vdm_jax.layers import temporal
from vdm_jax.layers.module import Module
from vdm_jax.models import inputs
from vdm_jax.models.unet import unet3d

zeros = nn.initializers.zeros


class ControlNet(Module, unet3d.UNetModule):
  """Control network: (x, t, cond) -> residuals for a UNet3D, 0 at first.

  Attributes:
    config: Architecture of the U-Net whose encoder it copies.
    hint: the name of its hint in cond.hints.
    widths: channels of the convolutions that downsample the hint to the size of x, by
      2^(len(widths) - 1); (): one convolution, of a hint that has that size.
    ignores_x: it gets zeros and not the noisy video (SparseCtrl).
    scale: factor of the residuals.
  """

  hint: str = "edges"
  widths: tuple[int, ...] = (16, 32, 96, 256)
  ignores_x: bool = False
  scale: float = 1.0

  @nn.compact
  def __call__(self, x, t, cond, *, train=False):
    """([a residual for each skip connection], the middle's), [B, T, h, w, c] each.

    Args:
      x: noisy video [B, T, H, W, C].
      t: diffusion time in the network's units, [B], [B, 1] or [B, T].
      cond: Conditioning with hints[hint] [B, T or 1, h, w, C'] and the U-Net's signals.
        SparseCtrl's last channel is 1 where a frame has a hint; frames without are 0.
    """
    del train
    c = self.config
    if self.hint not in cond.hints:
      raise KeyError(
        f"The control network reads hints[{self.hint!r}]; the condition has "
        f"{sorted(cond.hints)}."
      )
    frames = x.shape[1]
    x = inputs.stack_channels(x, cond, mask_channel=c.mask_channel, dtype=self.dtype)
    x = jnp.zeros_like(x) if self.ignores_x else x
    picture = cond.hints[self.hint].astype(self.dtype)
    shape = (x.shape[0], frames, *picture.shape[2:])
    extra = self._shrink(jnp.broadcast_to(picture, shape))
    if extra.shape[2:4] != x.shape[2:4]:
      raise ValueError(
        f"hints[{self.hint!r}] of {picture.shape[2:4]} becomes {extra.shape[2:4]}, "
        f"which does not fit x of {x.shape[2:4]}; give it "
        f"{2 ** max(len(self.widths) - 1, 0)} times the size of x."
      )
    signals = unet3d.ConditionEmbedding(**self.fields(), name="embed")(t, cond, frames)
    skips, x = unet3d.UNetEncoder(**self.fields(), name="encoder")(x, signals, extra)
    skips = [self._zero_conv(skip, f"zero_{i}") for i, skip in enumerate(skips)]
    return skips, self._zero_conv(x, "zero_middle")

  def _zero_conv(self, x, name):
    out = temporal.convolution(
      x, x.shape[-1], (1, 1), kernel_init=zeros, **self.dtypes, name=name
    )
    return self.scale * out

  def _shrink(self, x):
    """The hint in the size of x and with the channels of its first features."""
    features, rest = self.config.channels[0], self.dtypes
    if not self.widths:
      return temporal.convolution(x, features, (3, 3), **rest, name="hint")
    conv = lambda x, width, name, **fields: nn.silu(
      temporal.convolution(x, width, (3, 3), **fields, **rest, name=name)
    )
    half = dict(stride=2, padding=((1, 1), (1, 1)))
    x = conv(x, self.widths[0], "hint_in")
    for i in range(len(self.widths) - 1):
      x = conv(x, self.widths[i], f"hint_{i}")
      x = conv(x, self.widths[i + 1], f"hint_half_{i}", **half)
    return temporal.convolution(
      x, features, (3, 3), kernel_init=zeros, **rest, name="hint_out"
    )


class Controlled(Module):
  """A U-Net with a control network: (x, t, cond) -> F [B, T, H, W, out_channels].

  Parameters are {"base": the U-Net's, "control": the control network's}.

  Attributes:
    base: the UNet3D.
    control: its ControlNet.
  """

  base: unet3d.UNet3D
  control: ControlNet

  @property
  def param_dtype(self):
    """The dtype of the U-Net's parameters."""
    return self.base.param_dtype

  @nn.compact
  def __call__(self, x, t, cond, *, train=False):
    """The U-Net's output F [B, T, H, W, out_channels] in float32.

    Args:
      x: noisy video [B, T, H, W, C].
      t: diffusion time in the network's units, [B], [B, 1] or [B, T].
      cond: Conditioning with hints[hint] [B, T or 1, h, w, C'] and the U-Net's signals.
    """
    return self.base(x, t, cond, train=train, residuals=self.control(x, t, cond))
