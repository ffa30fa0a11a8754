"""A plan is its published rule, and every step finds what the plan left for it."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support.refusals import refused
from vdm_jax.diffusion import caching, long_video, times
from vdm_jax.diffusion import denoise as d
from vdm_jax.diffusion import process as p
from vdm_jax.diffusion.samplers import ddim, heun, loop

KEY = jax.random.key(0)
X = np.random.default_rng(0).standard_normal((2, 3, 2, 2, 1)).astype(np.float32)
FLOW = p.Flow()
GRID = times.uniform_grid(FLOW, num_steps=6)
SPATIAL = functools.partial(
  caching.pyramid_attention_broadcast, spatial=2, window=(0, 1001)
)


def apply(x, t, cond, cache=None, keep=()):
  """A network of one part: what it sees, bent, and the part of it that is costly."""
  path = ("block", "spatial")
  part = (cache or {}).get(path)
  part = jnp.sin(3.0 * x) + p.expand(t) / 1000 if part is None else part
  out = 0.3 * x - part
  return out if cache is None else (out, {"block": {"spatial": part}} if keep else {})


NETWORK = d.from_network(apply, FLOW, "velocity")


def test_no_threshold_and_ranges_of_one_reuse_nothing():
  ones = np.ones(9)  # not even where nothing changes
  for modes in (
    caching.mag_cache(ones, ratios=ones, threshold=0.0),
    caching.pyramid_attention_broadcast(np.linspace(1000, 0, 9)),
  ):
    assert modes == [caching.CacheMode()] * 9
  modes = caching.mag_cache(ones, ratios=ones, threshold=1e-9, retain=0.0)
  assert sum("stack" in mode.reuse for mode in modes) == 6  # three of four


def test_a_part_is_kept_by_the_last_call_before_it_is_reused():
  rng = np.random.default_rng(0)
  reuse = [set(), *[{n for n in "abc" if rng.random() < 0.5} for _ in range(40)]]
  held = {}
  for i, mode in enumerate(caching.modes_from_reused_parts(reuse)):
    assert set(mode.reuse) == reuse[i] <= set(held)
    newest = {n: max(j for j in range(i) if n not in reuse[j]) for n in mode.reuse}
    assert {n: held[n] for n in mode.reuse} == newest
    held.update(dict.fromkeys(mode.keep, i))


def bodies(steps):
  return sum(len(pattern) for _, pattern in caching.repeats_and_patterns(steps))


def test_segments_are_the_steps_in_as_few_bodies_as_there_are():
  @functools.cache
  def fewest(steps):
    if not steps:
      return 0
    found = []
    for n in range(1, len(steps) + 1):
      end = n
      while steps[end - n : end] == steps[:n]:
        found.append(n + fewest(steps[end:]))
        end += n
    return min(found)

  for steps in itertools.product("ab", repeat=9):
    loops = caching.repeats_and_patterns(list(steps))
    assert "".join("".join(pattern) * n for n, pattern in loops) == "".join(steps)
    assert bodies(list(steps)) == fewest(steps)


def test_the_published_rhythms_compile_few_bodies():
  grid = times.respaced_grid(p.DDPM(), num_steps=50)[:-1] - 1
  modes = lambda **ranges: caching.pyramid_attention_broadcast(grid, **ranges)
  assert bodies([(mode,) for mode in modes()]) == 1
  assert bodies([(mode,) for mode in modes(spatial=2)]) <= 5
  assert bodies([(mode,) for mode in modes(spatial=2, temporal=4)]) <= 10
  assert bodies([(mode,) for mode in modes(spatial=2, temporal=4, cross=6)]) <= 30


def sample(wrappers, sampler=ddim.ddim, ts=GRID, network=NETWORK):
  denoise = d.apply_wrappers(network, wrappers, None)
  return sampler(denoise, FLOW, X, ts, None, KEY)


cached = lambda plan, **more: functools.partial(d.cached, plan=plan, **more)


def test_a_plan_that_keeps_nothing_is_the_sampler_itself():
  program = lambda wrappers: str(jax.make_jaxpr(lambda: sample(wrappers))())
  assert program((cached(caching.pyramid_attention_broadcast),)) == program(())
  assert program((cached(SPATIAL),)) != program(())


def test_wrappers_stand_around_the_cache():
  fade = lambda denoise, null: (
    lambda x, t, cond: d.Denoised(0.9 * denoise(x, t, cond).x0)
  )
  plain, faded, other = jax.jit(
    lambda: [
      sample((cached(SPATIAL),)),
      sample((cached(SPATIAL), fade)),
      sample((fade,)),
    ]
  )()
  assert not np.allclose(plain, faded, atol=1e-2)
  assert not np.allclose(other, faded, atol=1e-2)


def test_watching_sees_what_was_kept_before_and_now():
  seen = {}

  def watch(call, old, new):
    (a,), (b,) = old.values(), new.values()
    note = lambda call, *sizes: seen.update({int(call): [float(s) for s in sizes]})
    jax.debug.callback(note, call, jnp.abs(a).sum(), jnp.abs(b).sum())

  plan = functools.partial(caching.keep_all_modes, names=("spatial",))
  out = jax.jit(lambda: sample((cached(plan, on_update=watch),), heun.heun))()
  jax.effects_barrier()
  np.testing.assert_allclose(out, jax.jit(lambda: sample((), heun.heun))(), atol=1e-6)
  assert sorted(seen) == list(range(12))
  assert seen[0][0] == 0.0 < seen[0][1]
  for i in range(1, 12):
    assert seen[i][0] == seen[i - 1][1] != seen[i][1]


def test_what_cannot_be_cached_is_refused_by_name():
  first, keeps = cached(SPATIAL), caching.CacheMode
  matrix = np.stack([GRID, GRID, GRID**2], axis=1)
  windows = functools.partial(d.windows, size=2, stride=1)
  extend = functools.partial(long_video.extension_plan, window=2, overlap=1)
  rollout = functools.partial(long_video.rollout, sampler=ddim.ddim, plan=extend)
  broadcast = caching.pyramid_attention_broadcast
  cross = cached(functools.partial(broadcast, cross=2))
  few = cached(lambda times: [keeps()] * 5)
  early = cached(lambda times: [keeps(("spatial",))] * 6)
  calls = {
    "name it first among the wrappers": lambda: sample((d.replace_known, first)),
    r"ts \(7, 3\) has other times for other": lambda: sample((first,), ts=matrix),
    "this grid is traced": lambda: jax.jit(lambda ts: sample((first,), ts=ts))(GRID),
    "called with 2; leave out `cached`, or the wr": lambda: sample((first, windows)),
    r"re-uses \['cross'\], of which the network has none": lambda: sample((cross,)),
    "5 modes for 6 calls": lambda: sample((few,)),
    r"Call 0 .* re-uses \['spatial'\], which no call kept": lambda: sample((early,)),
    "temporal=0; .* every 1st call": lambda: broadcast(GRID, temporal=0),
    "threshold=-1": lambda: caching.mag_cache(GRID, ratios=[1.0], threshold=-1),
  }
  refused(ValueError, calls)
  for sampler in (ddim.invert, rollout):
    refused(ValueError, {"without `cached`": lambda s=sampler: sample((first,), s)})


def test_a_sampler_that_miscounts_its_calls_is_refused():
  def twice(denoise, x, t, t_next, key):
    return denoise(denoise(x, t, None).x0, t_next, None).x0

  def run(step, calls):
    denoise = d.apply_wrappers(NETWORK, (cached(SPATIAL),), None)
    return loop.run_steps(step, denoise, X, GRID, KEY, calls=calls)

  with pytest.raises(ValueError, match="more than 1 calls"):
    run(twice, 1)
  with pytest.raises(ValueError, match="2 calls of 3"):
    run(twice, 3)
  assert run(twice, 2).shape == X.shape
