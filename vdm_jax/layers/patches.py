"""Videos <-> tokens: patches of one frame, or tubelets of several.

A linear layer on the patches is a convolution whose stride is its kernel.
"""

from einops import rearrange


def patchify(video, patch_size):
  """Patches of a video [B, T, H, W, C] -> [B, T / s, (H / p) (W / q), s p q C].

  Args:
    patch_size: (s, p, q), frames, height and width of a patch.
  """
  s, p, q = patch_size
  layout = "b (t s) (h p) (w q) c -> b t (h w) (s p q c)"
  return rearrange(video, layout, s=s, p=p, q=q)


def unpatchify(tokens, patch_size, grid_height):
  """Video [B, T, H, W, C] of its patches [B, T / s, (H / p) (W / q), s p q C].

  Args:
    patch_size: (s, p, q), frames, height and width of a patch.
    grid_height: H / p, patches along the height.
  """
  s, p, q = patch_size
  layout = "b t (h w) (s p q c) -> b (t s) (h p) (w q) c"
  return rearrange(tokens, layout, s=s, p=p, q=q, h=grid_height)


def check_divisible(shape, patch_size):
  """Raises a ValueError if patches (s, p, q) do not tile a shape [B, T, H, W, C]."""
  axes = zip(("frames", "height", "width"), shape[1:4], patch_size, strict=True)
  for name, length, p in axes:
    if length % p or not length:
      low = length // p * p
      nearest = f"{low} and {low + p}" if low else f"{p}"
      raise ValueError(
        f"x has {name} {length}, not a multiple of patch={p} along that axis; the "
        f"nearest: {nearest}. Resize or cut, or choose another patch."
      )
