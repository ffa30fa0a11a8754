"""Our own weights go into one small file and come back, or are refused by name."""

import numpy as np
import pytest

from vdm_jax.pretrained.formats import native


def parts():
  rng = np.random.default_rng(0)
  draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
  return {
    "autoencoder": {"conv": {"kernel": draw(3, 3, 4), "bias": draw(4)}},
    "denoiser": {"blocks": {"kernel": draw(2, 5)}, "scale": draw(1)},
  }


def test_each_part_comes_back_rounded_to_half_precision(tmp_path):
  path, saved = tmp_path / "deep" / "w.safetensors", parts()
  size = native.save(path, saved)
  assert size == path.stat().st_size and list(path.parent.iterdir()) == [path]
  for name, tree in saved.items():
    loaded = native.load(path, name)
    assert loaded.keys() == tree.keys()
  kernel = native.load(path, "autoencoder")["conv"]["kernel"]
  want = saved["autoencoder"]["conv"]["kernel"]
  assert kernel.dtype == np.float32
  np.testing.assert_array_equal(kernel, want.astype(np.float16).astype(np.float32))
  assert (kernel != want).any()  # half precision: a control for the line above


def test_a_wider_type_keeps_every_bit(tmp_path):
  path, saved = tmp_path / "w.safetensors", parts()
  native.save(path, saved, np.float32)
  loaded = native.load(path, "denoiser")
  np.testing.assert_array_equal(
    loaded["blocks"]["kernel"], saved["denoiser"]["blocks"]["kernel"]
  )


def test_eight_bits_are_near_and_only_where_asked(tmp_path):
  path, saved = tmp_path / "w.safetensors", parts()
  saved["autoencoder"]["conv"]["kernel"][..., 2] = 0.0  # a channel without weights
  saved["autoencoder"]["conv"]["kernel"][..., 3] = 1e-8  # and one as good as without
  size = native.save(path, saved, eight_bits="^autoencoder/")
  assert size < native.save(tmp_path / "half.safetensors", saved) + 100
  conv, want = native.load(path, "autoencoder")["conv"], saved["autoencoder"]["conv"]
  assert set(conv) == {"kernel", "bias"}
  top = np.abs(want["kernel"]).max(axis=(0, 1))
  error = np.abs(conv["kernel"] - want["kernel"]).max(axis=(0, 1))
  assert error[3] <= top[3] and top[3] < 1e-7
  top, error = top[:3], error[:3]
  assert (error <= top / 250).all() and error.max() > top.max() / 1000
  np.testing.assert_array_equal(conv["bias"], want["bias"].astype(np.float16))
  other = native.load(path, "denoiser")["blocks"]["kernel"]
  half = saved["denoiser"]["blocks"]["kernel"].astype(np.float16)
  np.testing.assert_array_equal(other, half)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e6])
def test_what_half_precision_cannot_hold_is_refused_by_name(tmp_path, value):
  saved = parts()
  saved["denoiser"]["scale"][0] = value
  with pytest.raises(ValueError, match="denoiser/scale.*float16"):
    native.save(tmp_path / "w.safetensors", saved)
  assert not list(tmp_path.iterdir())


def test_wrong_files_and_parts_are_refused(tmp_path):
  path = tmp_path / "w.safetensors"
  with pytest.raises(FileNotFoundError, match="no such file"):
    native.load(path, "denoiser")
  native.save(path, parts())
  with pytest.raises(ValueError, match="no part 'unet'.*autoencoder.*denoiser"):
    native.load(path, "unet")
  path.write_bytes(path.read_bytes()[:-5])
  with pytest.raises(ValueError, match="no whole safetensors file"):
    native.load(path, "denoiser")
  with pytest.raises(FileNotFoundError, match="no weights 'moving_digit'"):
    native.load_packaged("moving_digit", "denoiser")
