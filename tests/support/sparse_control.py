"""SparseCtrl's recorded control networks: small modules, and what they are called with.

Of their outputs every third channel is kept; each depends on all of the input.
"""

import numpy as np
from einops import rearrange

from vdm_jax.conditioning import Conditioning, Tokens
from vdm_jax.models import controlled
from vdm_jax.models.unet import architectures

VIDEO = "b c t h w -> b t h w c"
TINY = architectures.sparse_control(
  num_heads=4, channels=(64, 64, 96), layers=1, attention=(True, True, False)
)
MODULES = {
  "animatediff_sparsectrl_rgb": controlled.ControlNet(
    TINY, hint="sparse", widths=(), ignores_x=True, scale=0.7
  ),
  "animatediff_sparsectrl_scribble": controlled.ControlNet(
    TINY, hint="sparse", widths=(8, 12, 16, 24), ignores_x=True, scale=0.7
  ),
}


def inputs(z):
  """(x, t, cond): a text, and pictures with their mask as the last channel."""
  text = z["in_context"]
  hint = np.concatenate([z["in_cond"], z["in_mask"]], axis=1)
  cond = Conditioning(
    tokens={"text": Tokens(text, np.ones(text.shape[:2], bool))},
    hints={"sparse": rearrange(hint, VIDEO)},
  )
  return rearrange(z["in_x"], VIDEO), z["in_timesteps"].astype(np.float32), cond
