"""What every network promises. A new network is one more line in NETWORKS."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support import drawn, suite
from vdm_jax.conditioning import Conditioning, Tokens
from vdm_jax.models.transformer import blocks, video_dit
from vdm_jax.models.unet import architectures, unet3d

pytestmark = pytest.mark.usefixtures("unoptimized")

B, C, C_OUT = 2, 3, 5
SHAPES = [(B, 3, 4, 6, C), (B, 1, 6, 2, C)]  # one network, any clip
LABEL = Conditioning(vectors={"label": jnp.array([0, 3])})
TEXT = Tokens(jnp.ones((B, 4, 6)), jnp.array([[1, 1, 1, 0], [1, 1, 0, 0]], bool))
BOTH = Conditioning(
  vectors={"label": jnp.array([0, 3]), "text": jnp.linspace(-1, 1, B * 6).reshape(B, 6)}
)
LATE, SERIAL, PARALLEL = (blocks.VARIANTS[variant] for variant in (2, 3, 4))
UNET = dict(
  out_channels=C_OUT, channels=(8, 16), layers=1, attention=(False, False), groups=4
)
NUMBERS = {k: jnp.array([3.0, 24.0]) for k in ("fps", "motion", "augmentation")}
NONE, WORDS = Conditioning(), Conditioning(tokens={"text": TEXT})
dit = functools.partial(
  video_dit.VideoDiT, out_channels=C_OUT, patch=2, width=16, depth=4, num_heads=2
)
of_words = functools.partial(dit, modulation="shared", text="cross")
of_tokens = functools.partial(dit, modulation="tokens", text="pooled", num_classes=3)

NETWORKS = {
  "latte": (dit(), NONE),
  "latte with classes": (dit(num_classes=3), LABEL),
  "dit": (dit(num_classes=3, layout=("spatial",)), LABEL),
  "late, images": (dit(one_frame="image", remat=True, **LATE), NONE),
  "image, adaLN-single, text": (of_words(layout=("spatial",)), WORDS),
  "serial, adaLN-single, text, rotary": (
    of_words(time_positions="rotary", **SERIAL),
    WORDS,
  ),
  "parallel, all tokens": (of_tokens(**PARALLEL), BOTH),
  "svd": (
    unet3d.UNet3D(architectures.svd(head_dim=8, joint_frequencies=8, **UNET)),
    Conditioning(tokens={"image": TEXT}, vectors=NUMBERS),
  ),
  "videocrafter, image": (
    unet3d.UNet3D(architectures.videocrafter2(head_dim=8, image_keys=True, **UNET)),
    Conditioning(tokens={"text": TEXT, "image": TEXT}, vectors=NUMBERS),
  ),
  "lvdm, levels, remat": (
    unet3d.UNet3D(architectures.lvdm_long(num_heads=2, **UNET), remat=True),
    Conditioning(vectors={"augmentation": jnp.array([0, 250])}),
  ),
  "latte in bfloat16": (dit(dtype=jnp.bfloat16), NONE),
}


# Quick tests compare others with recorded outputs (tests/pretrained) or, serial blocks,
# with a formula (tests/models/transformer), and train U-Nets (tests/tasks).
QUICK = "image, adaLN-single, text", "parallel, all tokens"


def shapes_of(module, cond):
  """Of the parameters, boxed."""
  x, t = np.zeros(SHAPES[0], np.float32), np.zeros((B, 1), np.float32)
  return jax.eval_shape(module.init, jax.random.key(0), x, t, cond)["params"]


@pytest.fixture(scope="module", params=suite.choose(NETWORKS, *QUICK))
def network(request):
  """(params, boxed shapes, apply, gradient of a loss), parameters random and not 0."""
  module, cond = NETWORKS[request.param]
  shapes = shapes_of(module, cond)
  run = lambda p, x, t: module.apply({"params": p}, x, t, cond)
  gradient = jax.jit(jax.grad(lambda *args: jnp.square(run(*args)).mean()))
  compiled = jax.jit(run)
  apply = lambda *args: np.asarray(compiled(*args))
  return drawn.like(shapes), shapes, apply, gradient


def boxed(leaf):
  return isinstance(leaf, nn.meta.AxisMetadata)


def clip(shape):
  return drawn.normal(*shape, seed=1)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_answers_in_float32_for_any_clip(network, shape):
  params, _, apply, _ = network
  out = apply(params, clip(shape), np.full(shape[:2], 300.0, np.float32))
  assert out.shape == shape[:-1] + (C_OUT,)
  assert out.dtype == jnp.float32 and np.isfinite(out).all()


@pytest.mark.parametrize("network", suite.choose(NETWORKS, QUICK[1]), indirect=True)
def test_one_time_for_a_clip_is_that_time_for_every_frame(network):
  params, _, apply, _ = network
  x, t = clip(SHAPES[0]), np.array([3.0, 977.0], np.float32)
  per_frame = np.repeat(t[:, None], 3, axis=1)
  out = apply(params, x, per_frame)
  np.testing.assert_array_equal(apply(params, x, t), out)
  assert np.abs(apply(params, x, t[::-1].copy()) - out).max() > 1e-2


def test_clips_of_a_batch_do_not_meet(network):
  params, _, apply, _ = network
  x, t = clip(SHAPES[0]), np.full(SHAPES[0][:2], 300.0, np.float32)
  edited = x.copy()
  edited[0] += 1.0
  change = np.abs(apply(params, edited, t) - apply(params, x, t))
  assert change[0].max() > 1e-2
  np.testing.assert_array_equal(change[1], 0.0)


def test_the_gradient_reaches_every_parameter(network):
  params, shapes, _, gradient = network
  grads = gradient(params, clip(SHAPES[0]), np.array([3.0, 977.0], np.float32))
  grads = jax.tree.map(np.asarray, grads)
  names = jax.tree.leaves(shapes, is_leaf=boxed)
  leaves = jax.tree_util.tree_leaves_with_path(grads)
  for (path, grad), box in zip(leaves, names, strict=True):
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    layers = grad if box.names[0] == "layers" else grad[None]
    assert np.isfinite(grad).all(), name
    assert all(np.abs(layer).max() > 0 for layer in layers), name


@pytest.mark.parametrize("name", suite.choose(NETWORKS, *QUICK, "svd"))
def test_every_parameter_has_axis_names_and_is_float32(name):
  shapes = shapes_of(*NETWORKS[name])
  for path, leaf in jax.tree_util.tree_leaves_with_path(shapes, is_leaf=boxed):
    name = jax.tree_util.keystr(path)
    assert boxed(leaf), f"{name} has no axis names"
    assert len(leaf.names) == leaf.value.ndim, name
    assert leaf.value.dtype == jnp.float32, name
