"""Step caches as diffusers has them: the same steps computed, the same latents."""

import functools

import diffusers
import jax
import numpy as np
import pytest
import torch
from einops import rearrange

import vdm_jax
from tests.parity import pipelines, record_pipelines
from tests.support import parity_table
from tests.support.published import pipelines as published
from vdm_jax.diffusion import caching

STEPS = 20
BOUND = 1e-4  # of a trajectory, times max|ref|
RATIOS = 1.0 + 0.02 * np.sin(np.arange(STEPS))


def check(record_property, row, theirs, draw, plan, other):
  """`draw(cache)` gives theirs with this plan, and neither without nor with another."""

  def error(cache):
    with jax.default_matmul_precision("highest"):
      return float(np.abs(draw(cache) - theirs).max() / np.abs(theirs).max())

  found, control = error(plan), min(error(None), error(other)) / BOUND
  assert found < BOUND and control > 10
  row = f"{row}, 20 steps, guidance 7.5"
  parity_table.note(record_property, row, error=found, bound=BOUND, control=control)


@pytest.mark.parametrize("seed", [0, 1])  # with DDIM, and with DPM-Solver++
def test_broadcast_attention_gives_the_latents_of_diffusers(
  seed, tmp_path, record_property
):
  """The branches of the network weigh much."""
  scheduler = pipelines.SCHEDULERS[seed]
  theirs = pipelines.latte(record_pipelines.rng(21, seed), scheduler, num_layers=2)
  with torch.no_grad():
    for name, x in theirs.transformer.named_parameters():
      if name.endswith(("scale_shift_table", "attn2.to_out.0.weight")):
        x.mul_(6.0)
  record_pipelines.saved(theirs, tmp_path)
  ours = vdm_jax.load(tmp_path)
  theirs.transformer.enable_cache(
    diffusers.PyramidAttentionBroadcastConfig(
      spatial_attention_block_skip_range=2,
      temporal_attention_block_skip_range=4,
      cross_attention_block_skip_range=6,
      # By default the pattern finds the temporal blocks, too.
      spatial_attention_block_identifiers=("^transformer_blocks",),
      current_timestep_callback=lambda: theirs.current_timestep,
    )
  )
  latents = record_pipelines.latents(theirs, STEPS, **record_pipelines.LATTE)
  inputs = published.noise(), *published.embeddings(), STEPS
  draw = lambda cache: published.text_latents(ours, *inputs, cache=cache)
  plan = functools.partial(
    caching.pyramid_attention_broadcast, spatial=2, temporal=4, cross=6
  )
  row, other = "LattePipeline with PAB", functools.partial(plan, spatial=3)
  check(record_property, row, latents, draw, plan, other)


def test_magcache_gives_the_latents_of_diffusers(tmp_path, record_property):
  theirs = pipelines.dit(
    record_pipelines.rng(22, 0), pipelines.SCHEDULERS[0], num_layers=3
  )
  record_pipelines.saved(theirs, tmp_path)
  ours = vdm_jax.load(tmp_path)
  settings = dict(threshold=0.06)
  diffusers.hooks.apply_mag_cache(
    theirs.transformer,
    diffusers.MagCacheConfig(
      **settings,
      max_skip_steps=3,
      retention_ratio=0.2,
      num_inference_steps=STEPS,
      mag_ratios=RATIOS.tolist(),
    ),
  )
  noise = published.normal(1, 2, 4, 8, 8)
  video = lambda x: rearrange(x, "b c h w -> b 1 h w c")
  latents = video(by_steps(theirs.transformer, theirs.scheduler, noise, [0, 7]))
  draw = lambda cache: np.asarray(
    ours.sample_latents(
      {"label": np.array([0, 7], np.int32)},
      video(noise),
      jax.random.key(0),
      steps=STEPS,
      guidance=published.GUIDANCE,
      cache=cache,
    )
  )
  plan = functools.partial(caching.mag_cache, ratios=RATIOS, **settings)
  row, other = "DiTPipeline with MagCache", functools.partial(plan, retain=0.3)
  check(record_property, row, latents, draw, plan, other)


def by_steps(network, scheduler, noise, labels):
  """The loop of diffusers' DiTPipeline without its decoder: [B, C, H, W]."""
  x = torch.from_numpy(noise) * scheduler.init_noise_sigma
  labels = torch.tensor([*labels, *[1000] * len(labels)])
  scheduler.set_timesteps(STEPS)
  with torch.no_grad():
    for t in scheduler.timesteps:
      both = scheduler.scale_model_input(torch.cat([x, x]), t)
      out = network(both, timestep=t.expand(len(both)), class_labels=labels).sample
      cond, uncond = out[:, : x.shape[1]].chunk(2)
      guided = uncond + published.GUIDANCE * (cond - uncond)
      x = scheduler.step(guided, t, x).prev_sample
  return x.numpy()
