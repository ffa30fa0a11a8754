"""Videos <-> tokens: patches of one frame, or tubelets of several.

A linear layer on the patches is a convolution whose stride is its kernel.
"""

from einops import rearrange


def patchify(x, size):
  """Patches of a video: [B, T, H, W, C] -> [B, T / s, (H / p) (W / q), s p q C].

  `size` is (s, p, q): frames, height and width of a patch.
  """
  s, p, q = size
  layout = "b (t s) (h p) (w q) c -> b t (h w) (s p q c)"
  return rearrange(x, layout, s=s, p=p, q=q)


def unpatchify(x, size, rows):
  """Video [B, T, H, W, C] of patches: the inverse of `patchify`; rows = H / p."""
  s, p, q = size
  layout = "b t (h w) (s p q c) -> b (t s) (h p) (w q) c"
  return rearrange(x, layout, s=s, p=p, q=q, h=rows)


def check_divisible(shape, size):
  """Raises a ValueError if patches of size (s, p, q) do not tile [B, T, H, W, C]."""
  axes = zip(("frames", "height", "width"), shape[1:4], size, strict=True)
  for name, length, p in axes:
    if length % p or not length:
      low = length // p * p
      nearest = f"{low} and {low + p}" if low else f"{p}"
      raise ValueError(
        f"x has {name} {length}, not a multiple of patch={p} along that axis; the "
        f"nearest: {nearest}. Resize or cut, or choose another patch."
      )
