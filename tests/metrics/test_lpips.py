"""LPIPS against a plain numpy version of it, on random weights in PyTorch's shapes."""

import jax
import numpy as np
import pytest
import safetensors.numpy

from vdm_jax.metrics import lpips

# Written out from torchvision: (index, channels in, channels out, kernel).
ALEXNET = ((0, 3, 64, 11), (3, 64, 192, 5), (6, 192, 384, 3), (8, 384, 256, 3))
ALEXNET += ((10, 256, 256, 3),)
VGG16 = ((0, 3, 64, 3), (2, 64, 64, 3), (5, 64, 128, 3), (7, 128, 128, 3))
VGG16 += ((10, 128, 256, 3), (12, 256, 256, 3), (14, 256, 256, 3))
VGG16 += ((17, 256, 512, 3), (19, 512, 512, 3), (21, 512, 512, 3))
VGG16 += ((24, 512, 512, 3), (26, 512, 512, 3), (28, 512, 512, 3))
TAPS = {"alexnet": (64, 192, 384, 256, 256), "vgg16": (64, 128, 256, 512, 512)}


def weights(trunk):
  rng = np.random.default_rng(0)
  layers = {"alexnet": ALEXNET, "vgg16": VGG16}[trunk]
  out = {}
  for i, c_in, c_out, k in layers:
    scale = np.sqrt(2.0 / (c_in * k * k))
    out[f"features.{i}.weight"] = scale * rng.standard_normal((c_out, c_in, k, k))
    out[f"features.{i}.bias"] = 0.1 * rng.standard_normal(c_out)
  for i, c in enumerate(TAPS[trunk]):
    out[f"lin{i}.model.1.weight"] = np.abs(rng.standard_normal((1, c, 1, 1)))
  return {k: v.astype(np.float32) for k, v in out.items()}


def reference(w, trunk, x, y):
  """The published definition in NCHW, one loop per layer of nn.Sequential."""

  def conv(x, i, stride, pad):
    weight = w[f"features.{i}.weight"]
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    windows = np.lib.stride_tricks.sliding_window_view(x, weight.shape[2:], (2, 3))
    windows = windows[:, :, ::stride, ::stride]
    bias = w[f"features.{i}.bias"][None, :, None, None]
    return np.einsum("nihwpq,oipq->nohw", windows, weight, optimize=True) + bias

  def pool(x, size):
    windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), (2, 3))
    return windows[:, :, ::2, ::2].max((-2, -1))

  def features(x):
    x = np.moveaxis(x, -1, 1)
    x = x - np.array([-0.030, -0.088, -0.188])[None, :, None, None]
    x = x / np.array([0.458, 0.448, 0.450])[None, :, None, None]
    if trunk == "alexnet":
      x = np.maximum(conv(x, 0, 4, 2), 0)
      yield x
      x = np.maximum(conv(pool(x, 3), 3, 1, 2), 0)
      yield x
      x = np.maximum(conv(pool(x, 3), 6, 1, 1), 0)
      yield x
      for i in (8, 10):
        x = np.maximum(conv(x, i, 1, 1), 0)
        yield x
      return
    for group in ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28)):
      x = pool(x, 2) if group[0] else x
      for i in group:
        x = np.maximum(conv(x, i, 1, 1), 0)
      yield x

  total = 0.0
  for i, (a, b) in enumerate(zip(features(x), features(y), strict=True)):
    a, b = (f / (np.sqrt((f**2).sum(1, keepdims=True)) + 1e-10) for f in (a, b))
    head = w[f"lin{i}.model.1.weight"]
    total = total + ((a - b) ** 2 * head).sum(1).mean((1, 2))
  return total


@jax.jit
def by_alexnet(params, x, y):
  """(distances [N], their gradient by y)."""

  def total(y):
    each = lpips.LPIPS((), "alexnet")(params, x, y)
    return each.sum(), each

  (_, each), slope = jax.value_and_grad(total, has_aux=True)(y)
  return each, slope


@jax.jit
def by_vgg16(params, x, y):
  return lpips.distance(params, x, y, trunk="vgg16"), None


SIZE = (35, 39)  # AlexNet's, in all tests


@pytest.mark.parametrize(
  "trunk, size, apply", [("alexnet", SIZE, by_alexnet), ("vgg16", (16, 18), by_vgg16)]
)
def test_distance_is_the_published_one(trunk, size, apply):
  x, y = np.random.default_rng(1).uniform(-1, 1, (2, 2, *size, 3)).astype(np.float32)
  w = weights(trunk)
  ours, _ = apply(lpips.from_state_dict(w, trunk), x, y)
  want = reference(w, trunk, x, y)
  np.testing.assert_allclose(ours, want, rtol=1e-4)
  assert not np.allclose(ours, reference(w, trunk, x[..., ::-1], y), rtol=1e-3)


def test_distance_is_a_distance_and_has_a_gradient(tmp_path):
  """Of the trunk as safetensors and the heads as npz, as a user would bring them."""
  w, trunk = weights("alexnet"), tmp_path / "alexnet.safetensors"
  heads = tmp_path / "heads.npz"
  safetensors.numpy.save_file({k: v for k, v in w.items() if "lin" not in k}, trunk)
  np.savez(heads, **{k: v for k, v in w.items() if "lin" in k})
  params = lpips.LPIPS((trunk, heads), trunk="alexnet").init()
  rng = np.random.default_rng(1)
  x, y = rng.uniform(-1.0, 1.0, (2, 2, *SIZE, 3)).astype(np.float32)
  x[1] = -1.0  # a black frame
  there, slope = by_alexnet(params, x, y)
  assert there.shape == (2,) and np.all(there > 1e-3)
  np.testing.assert_allclose(there, by_alexnet(params, y, x)[0], rtol=1e-5)
  _, slope_at_zero = by_alexnet(params, x, x)
  same = jax.jit(lambda p, x: lpips.distance(p, x, x, trunk="alexnet"))(params, x)
  np.testing.assert_array_equal(same, 0.0)
  assert np.isfinite(slope).all() and np.abs(slope).max() > 0.0
  assert np.isfinite(slope_at_zero).all()


def test_dead_features_have_a_finite_gradient():
  zero = {k: -np.abs(v) for k, v in weights("alexnet").items()}
  x = np.ones((2, *SIZE, 3), np.float32)  # negative weights: all relus are off
  _, slope = by_alexnet(lpips.from_state_dict(zero, "alexnet"), x, x)
  np.testing.assert_array_equal(slope, 0.0)


def test_missing_and_misshapen_weights_are_all_named():
  w = weights("alexnet")
  del w["features.3.bias"], w["lin4.model.1.weight"]
  w["features.0.weight"] = w["features.0.weight"][:, :, :3, :3]
  with pytest.raises(ValueError) as error:
    lpips.from_state_dict(w, "alexnet")
  for part in (
    "missing features.3.bias",
    "missing lin4.model.1.weight",
    "features.0.weight has shape (64, 3, 3, 3), expected (64, 3, 11, 11)",
  ):
    assert part in str(error.value)


def test_pickles_and_unknown_trunks_are_refused(tmp_path):
  with pytest.raises(ValueError, match="pickles are not read"):
    lpips.LPIPS((tmp_path / "vgg.pth",)).init()
  with pytest.raises(ValueError, match="trunk='vgg19' must be one of"):
    lpips.LPIPS((tmp_path / "vgg.npz",), trunk="vgg19")
  with pytest.raises(ValueError, match="too small for LPIPS"):
    params = lpips.from_state_dict(weights("alexnet"), "alexnet")
    videos = np.zeros((2, 1, 8, 8, 3), np.float32)
    jax.eval_shape(lpips.LPIPS((), "alexnet"), params, *videos)


def test_where_no_feature_is_active_the_gradient_is_finite():
  slope = jax.grad(lambda x: lpips._unit(x).sum())(np.zeros((2, 4), np.float32))
  assert np.isfinite(slope).all()
