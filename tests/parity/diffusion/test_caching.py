"""A plan is its published rule, and every step finds what the plan left for it."""

import diffusers
import numpy as np
import pytest
import torch
from diffusers.hooks import _helpers, mag_cache
from diffusers.hooks import pyramid_attention_broadcast as pab

from vdm_jax.diffusion import caching, times
from vdm_jax.diffusion import process as p


def computed(hook_of, timesteps):
  """Which calls of a module under a hook of diffusers are computed, by diffusers."""
  calls = []
  now = [0]

  class Counts(torch.nn.Module):
    def forward(self, x):
      calls.append(now[0])
      return x + 1

  module = Counts()
  hook_of(module, lambda: timesteps[now[0]])
  for now[0] in range(len(timesteps)):
    module(torch.zeros(1))
  return calls


@pytest.mark.parametrize("seed", range(8))
def test_broadcast_computes_the_calls_that_diffusers_computes(seed):
  rng = np.random.default_rng(seed)
  ranges = dict(spatial=2, temporal=4, cross=6)
  low, high = (100, 800) if seed == 0 else np.sort(rng.integers(0, 1000, 2)).tolist()
  count = int(rng.integers(2, 60))
  grid = times.leading_grid(p.DDPM(), num_steps=count)
  seen = grid[:-1] - 1
  modes = caching.pyramid_attention_broadcast(seen, **ranges, window=(low, high))
  for name, value in ranges.items():
    hook = lambda module, now, n=value: pab._apply_pyramid_attention_broadcast_hook(
      module, (low, high), n, now
    )
    expected = computed(hook, seen.astype(int).tolist())
    ours = [i for i, mode in enumerate(modes) if name not in mode.reuse]
    assert ours == expected
    if seed == 0:
      assert len(ours) < count


class Toy(torch.nn.Module):
  """A block that adds 1, and counts."""

  def __init__(self):
    super().__init__()
    self.calls = 0

  def forward(self, hidden_states):
    self.calls += 1
    return hidden_states + 1.0


_helpers.TransformerBlockRegistry.register(
  Toy, _helpers.TransformerBlockMetadata(return_hidden_states_index=0)
)


@pytest.mark.parametrize("seed", range(8))
def test_magnitude_computes_the_calls_that_diffusers_computes(seed):
  rng = np.random.default_rng(seed)
  count, given = int(rng.integers(8, 60)), int(rng.integers(8, 60))
  ratios = 1.0 + 0.05 * rng.standard_normal(given)
  settings = dict(threshold=float(rng.uniform(0.02, 0.3)))
  most, retain = int(rng.integers(1, 6)), float(rng.uniform(0.0, 0.5))
  model = torch.nn.Module()
  model.transformer_blocks = torch.nn.ModuleList([Toy(), Toy(), Toy()])
  mag_cache.apply_mag_cache(
    model,
    diffusers.hooks.MagCacheConfig(
      **settings,
      max_skip_steps=most,
      retention_ratio=retain,
      num_inference_steps=count,
      mag_ratios=ratios.tolist(),
    ),
  )
  expected = []
  for i in range(count):
    x, before = torch.zeros(1, 2, 3), model.transformer_blocks[1].calls
    for block in model.transformer_blocks:
      x = block(x)
    expected += [i] * (model.transformer_blocks[1].calls - before)
  modes = caching.mag_cache(
    np.zeros(count), ratios=ratios, **settings, max_skips=most, retain=retain
  )
  assert [i for i, mode in enumerate(modes) if not mode.reuse] == expected
  assert len(expected) < count
