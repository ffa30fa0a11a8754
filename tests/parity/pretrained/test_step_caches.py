"""Step caches as diffusers has them: the same steps computed, the same latents."""

import functools

import diffusers
import jax
import numpy as np
import pytest
import torch
from einops import rearrange

from tests.parity import pipelines
from tests.parity.pretrained import test_pipeline
from tests.support import parity_table
from tests.support.published import rows_networks
from vdm_jax.diffusion import caching

STEPS, SCALE = 20, 7.5
BOUND = 1e-4  # of a trajectory, times max|ref|
RATIOS = 1.0 + 0.02 * np.sin(np.arange(STEPS))


@pytest.fixture(scope="module", params=[0, 1])
def latte(request, tmp_path_factory):
  """With DDIM, and with DPM-Solver++; its branches weigh much."""
  drawn = rows_networks.draw_latte(np.random.default_rng([21, request.param]))
  fixed = dict(patch_size=2, sample_size=8, in_channels=4, out_channels=8, num_layers=2)
  network = diffusers.LatteTransformer3DModel(
    **drawn | fixed | dict(caption_channels=12, video_length=3)
  )
  network = pipelines.fill(network)
  with torch.no_grad():
    for name, x in network.named_parameters():
      x.mul_(
        6.0 if name.endswith(("scale_shift_table", "attn2.to_out.0.weight")) else 1.0
      )
  theirs = diffusers.LattePipeline(
    tokenizer=None,
    text_encoder=None,
    vae=pipelines.autoencoder(**pipelines.IMAGES),
    transformer=network,
    scheduler=test_pipeline.SCHEDULERS[request.param],
  )
  return test_pipeline.opened(theirs, tmp_path_factory.mktemp("latte"))


@pytest.fixture(scope="module")
def told():
  rng = np.random.default_rng(0)
  normal = lambda *shape: rng.standard_normal(shape).astype(np.float32)
  return dict(
    latents=normal(2, 3, 8, 12, 4), text=normal(2, 5, 12), negative=normal(2, 5, 12)
  )


def error(pipeline, signals, latents, wanted, plan=None):
  """Of the pipeline's latents with this plan, of max|ref|."""
  with jax.default_matmul_precision("highest"):
    out = pipeline.sample_latents(
      signals, latents, jax.random.key(0), steps=STEPS, guidance=SCALE, cache=plan
    )
  return float(np.abs(np.asarray(out) - wanted).max() / np.abs(wanted).max())


def test_broadcast_attention_gives_the_latents_of_diffusers(
  latte, told, record_property, monkeypatch
):
  theirs, _, ours = latte
  monkeypatch.setattr(test_pipeline, "STEPS", STEPS)
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
  wanted = test_pipeline.by_diffusers(theirs, told, "latent").numpy()
  wanted = rearrange(wanted, "b c t h w -> b t h w c")
  signals = test_pipeline.encoded(ours, (told["text"], None), (told["negative"], None))
  of = functools.partial(error, ours, signals, told["latents"], wanted)
  plan = functools.partial(
    caching.pyramid_attention_broadcast, spatial=2, temporal=4, cross=6
  )
  found = of(plan)
  assert found < BOUND
  control = min(of(), of(functools.partial(plan, spatial=3))) / BOUND
  assert control > 10
  note = functools.partial(
    parity_table.note, record_property, "LattePipeline with PAB, 20 steps, guidance 7.5"
  )
  note(error=found, bound=BOUND, control=control)


def test_magcache_gives_the_latents_of_diffusers(tmp_path, record_property):
  drawn = rows_networks.draw_dit(np.random.default_rng([22, 0]))
  fixed = dict(patch_size=2, sample_size=8, in_channels=4, out_channels=8)
  network = diffusers.DiTTransformer2DModel(
    **drawn | fixed | dict(num_embeds_ada_norm=1000, num_layers=3)
  )
  scheduler = test_pipeline.SCHEDULERS[0]
  theirs = diffusers.DiTPipeline(
    transformer=pipelines.fill(network),
    vae=pipelines.autoencoder(**pipelines.IMAGES),
    scheduler=scheduler,
  )
  _, _, ours = test_pipeline.opened(theirs, tmp_path, id2label={"0": "tench"})
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
  noise = np.random.default_rng(1).standard_normal((2, 4, 8, 8)).astype(np.float32)
  wanted = by_steps(theirs.transformer, scheduler, noise, [0, 7])
  wanted = rearrange(wanted, "b c h w -> b 1 h w c")
  signals = {"label": np.array([0, 7], np.int32)}
  latents = rearrange(noise, "b c h w -> b 1 h w c")
  of = functools.partial(error, ours, signals, latents, wanted)
  plan = functools.partial(caching.mag_cache, ratios=RATIOS, **settings)
  found = of(plan)
  assert found < BOUND
  control = min(of(), of(functools.partial(plan, retain=0.3))) / BOUND
  assert control > 10
  note = functools.partial(
    parity_table.note, record_property, "DiTTransformer2DModel with MagCache, 20 steps"
  )
  note(error=found, bound=BOUND, control=control)


def by_steps(network, scheduler, noise, labels):
  """The loop of diffusers' DiTPipeline without its decoder: [B, C, H, W]."""
  x = torch.from_numpy(noise) * scheduler.init_noise_sigma
  labels = torch.tensor([*labels, *[1000] * len(labels)])
  scheduler.set_timesteps(STEPS)
  with torch.no_grad():
    for t in scheduler.timesteps:
      both = scheduler.scale_model_input(torch.cat([x, x]), t)
      out = network(both, timestep=t.expand(len(both)), class_labels=labels).sample
      told, untold = out[:, : x.shape[1]].chunk(2)
      x = scheduler.step(untold + SCALE * (told - untold), t, x).prev_sample
  return x.numpy()
