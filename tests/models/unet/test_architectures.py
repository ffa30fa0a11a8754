"""The U-Nets of published systems have as many parameters as the published ones."""

import jax
import numpy as np
import pytest

from tests.support import suite
from vdm_jax.conditioning import Conditioning, Tokens
from vdm_jax.models.unet import architectures as nets
from vdm_jax.models.unet.unet3d import UNet3D

IMAGE = 859_520_964  # Stable Diffusion 1.5
MOTION = {1: 417_137_600, 2: 453_209_280, 3: 417_137_600}  # of AnimateDiff's versions
# Channels of x, features of a text, parameters: counted on the originals (diffusers'
# UNet3DConditionModel has no fps: 1,411,233,860).
PUBLISHED = {
  "stable_diffusion": (nets.stable_diffusion(), 4, 768, IMAGE),
  **{
    f"animatediff v{n}": (nets.animatediff(version=n), 4, 768, IMAGE + more)
    for n, more in MOTION.items()
  },
  "svd": (nets.svd(), 8, 1024, 1_524_623_082),
  "modelscope": (nets.modelscope(), 4, 1024, 1_411_233_860),
  "videocrafter2": (nets.videocrafter2(), 4, 1024, 1_413_284_420),
  "videocrafter1, image": (nets.videocrafter2(image_keys=True), 4, 1024, 1_438_843_460),
  "videocrafter1, 1024": (nets.videocrafter1(), 4, 1024, 1_146_536_516),
  "videocrafter1, 512": (nets.videocrafter1(fps=False), 4, 1024, 1_144_485_956),
  "lvdm, short": (nets.lvdm(), 4, 0, 548_904_580),
  "lvdm, prediction": (nets.lvdm_long(), 4, 0, 549_163_908),
  "lvdm, interpolation": (nets.lvdm_long(max_frames=5), 4, 0, 549_181_060),
  "lvdm, text": (nets.lvdm_text(), 4, 768, 958_924_964),
}


def count(tree, part=""):
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return sum(x.size for path, x in leaves if part in jax.tree_util.keystr(path))


# The others' parts are all in these.
LARGEST = (
  "animatediff v2",
  "animatediff v3",
  "svd",
  "videocrafter1, image",
  "videocrafter1, 1024",
  "lvdm, prediction",
  "lvdm, text",
)


@pytest.mark.parametrize("name", suite.choose(PUBLISHED, *LARGEST))
def test_it_has_the_published_number_of_parameters(name):
  """And "temporal" names what AnimateDiff and SVD add to an image model."""
  architecture, channels, text, total = PUBLISHED[name]
  read = Tokens(np.zeros((1, 3, text)), np.ones((1, 3), bool))
  tokens = {"text": read, "image": read} if text else {}
  vectors = {name: np.zeros(1) for name in (*architecture.vectors, *architecture.joint)}
  vectors |= {name: np.zeros(1, np.int32) for name, _ in architecture.tables}
  inputs = np.zeros((1, 2, 8, 8, channels)), np.zeros(1), Conditioning(tokens, vectors)
  init = lambda key: UNet3D(architecture).init(key, *inputs)["params"]
  found = jax.eval_shape(init, jax.random.key(0))
  assert count(found) == total
  if name.startswith("animatediff"):
    assert count(found, "temporal") == total - IMAGE
  if name == "svd":  # 656 million, as its paper counts them
    assert round(count(found, "temporal") / 1e6) == 656


def test_an_unknown_name_is_refused():
  with pytest.raises(ValueError, match="norm_over='frames' is unknown"):
    nets.svd(norm_over="frames")
  with pytest.raises(ValueError, match="give one for each level"):
    nets.svd(channels=(32, 64))
  with pytest.raises(ValueError, match="versions 1, 2 and 3"):
    nets.animatediff(version=4)
