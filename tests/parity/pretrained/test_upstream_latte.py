"""Drawn configurations of upstream's Latte compute what DiT's blocks of diffusers do.

What Latte's own code computed is recorded: tests/pretrained/test_originals.py.
"""

import types

import jax
import numpy as np
import pytest
import torch
from einops import rearrange

from tests.parity import originals, upstream_latte
from tests.support import golden_files, parity_table
from vdm_jax import pretrained
from vdm_jax.conditioning import Conditioning
from vdm_jax.models.transformer import video_dit

ROW = "Latte, upstream's layout, against blocks of DiTTransformer2DModel"
CLASSES = {"class": (1, 5, 101, 7, 3), "unconditional": (0,) * 5}  # of each seed


@pytest.fixture(
  scope="module",
  params=[(kind, seed) for kind in CLASSES for seed in range(5)],
  ids=lambda p: f"{p[0]}-{p[1]}",
)
def case(request):
  """What the seed draws: size (frames, rows, columns of patches), state dict, module.

  And `error(name=array)`, the largest difference in units of the tolerance with some
  tensors changed. Odd seeds have a grid that is not square.
  """
  kind, seed = request.param
  labels = CLASSES[kind][seed]
  rng = np.random.default_rng([seed, bool(labels)])
  channels, rows = int(rng.choice([3, 4, 6])), int(rng.integers(2, 6))
  columns = rows if seed % 2 == 0 else rows + int(rng.integers(1, 4))
  depth, heads = (2, 4, 6, 2, 4)[seed], int(rng.integers(1, 5))
  head_dim, patch = int(rng.choice([4, 8, 12, 20])), int(rng.integers(1, 4))
  out_channels, frames = channels * int(rng.choice([1, 2, 2])), int(rng.integers(1, 8))
  theirs = upstream_latte.Upstream(
    labels,
    num_layers=depth,
    num_attention_heads=heads,
    attention_head_dim=head_dim,
    patch_size=patch,
    in_channels=channels,
    out_channels=out_channels,
    sample_size=4 * patch,
    activation_fn="gelu-approximate",
  )
  theirs = originals.filled(theirs, seed)
  if not labels:
    theirs.embed.class_embedder.embedding_table.weight.data.zero_()
  size = frames, rows, columns
  tables = theirs.tables(*size) if rows == columns else None
  state = upstream_latte.upstream_names(theirs, labels, tables)
  state = {k: x.numpy() for k, x in state.items()}
  module = video_dit.VideoDiT(
    out_channels=out_channels,
    patch=patch,
    width=theirs.width,
    depth=depth,
    num_heads=heads,
    num_classes=labels,
    num_frames=frames,
  )
  # Whole and unequal times, and "no class" among the labels.
  rng = np.random.default_rng([0, 11])
  x = rng.standard_normal((3, frames, rows * patch, columns * patch, channels))
  x, t = x.astype(np.float32), rng.choice(1000, 3, replace=False)
  y = rng.integers(0, max(labels, 1), 3)
  y[1] = labels
  with torch.no_grad():
    video = torch.from_numpy(rearrange(x, "b t h w c -> b t c h w").copy())
    out = theirs(video, torch.as_tensor(t), torch.as_tensor(y) * bool(labels)).numpy()
  cond = Conditioning(vectors={"label": y.astype(np.int32)} if labels else {})
  expected, apply = rearrange(out, "b t c h w -> b t h w c"), jax.jit(module.apply)
  assert expected.std() > 1e-2

  def error(**changes):
    params = pretrained.from_state_dict(module, state | changes)
    with jax.default_matmul_precision("highest"):
      ours = apply(params, x, t.astype(np.float32), cond)
    return float(golden_files.error(ours, expected))

  return types.SimpleNamespace(size=size, state=state, module=module, error=error)


def test_it_computes_what_upstream_computes(case, record_property):
  error = case.error()
  assert error <= 1
  parity_table.note_error(record_property, ROW, error)


def test_a_changed_tensor_is_seen(case, record_property):
  """One of them; of two blocks, each."""
  names = sorted(n for n in case.state if not n.endswith("_embed"))
  if case.module.depth > 2:
    names = [str(np.random.default_rng([5, case.module.width]).choice(names))]
  for name in names:
    other = golden_files.fill(f"other {name}", case.state[name].shape, 1)
    error = case.error(**{name: other})
    assert error > 1, name
    parity_table.note(record_property, ROW, control=error)


def test_it_goes_back_bit_for_bit(case):
  frames, rows, columns = case.size
  p = case.module.patch
  size = (frames, rows * p, columns * p) if rows == columns else None
  params = pretrained.from_state_dict(case.module, case.state)
  back = pretrained.to_state_dict(case.module, params, size=size)
  assert back.keys() == case.state.keys()
  for name, x in case.state.items():
    assert back[name].dtype == x.dtype
    if name.endswith("_embed"):  # a sine may be rounded the other way
      np.testing.assert_allclose(back[name], x, atol=1e-7, rtol=0)
    else:
      np.testing.assert_array_equal(back[name], x, err_msg=name)
