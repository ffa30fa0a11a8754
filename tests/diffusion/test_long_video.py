"""Plans cover a video and know only what is there; one window is the base sampler."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support import drawn, suite
from tests.support.refusals import refused
from vdm_jax.conditioning import Conditioning
from vdm_jax.diffusion import denoise as d
from vdm_jax.diffusion import long_video, schedules, times
from vdm_jax.diffusion import process as p
from vdm_jax.diffusion.samplers import ancestral, ddim, dpm_solver, euler, unipc

FLOW = p.Flow()
TS = times.uniform_grid(FLOW, num_steps=4)
KEY = jax.random.key(0)
plan_of_eight = functools.partial(functools.partial, window=8)
PLANS = {
  "extend": plan_of_eight(long_video.extension_plan, overlap=3),
  "remember": plan_of_eight(long_video.first_and_recent_plan, first=2, recent=3),
  "remember_far": plan_of_eight(long_video.sparse_past_plan, context=5),
  "hierarchical": plan_of_eight(long_video.hierarchical_plan, stride=3),
  "fill": plan_of_eight(long_video.interpolation_plan, stride=3),
  "hierarchical, one gap": plan_of_eight(long_video.hierarchical_plan, stride=7),
}


def mixing(x_t, t, cond):
  """A denoiser in which every frame sees all others and knows where they stand."""
  size = x_t.shape[1]
  place = jnp.arange(size)[None] * jnp.ones((len(x_t), 1))
  if cond is not None and cond.positions is not None:
    place = cond.positions
  near = jnp.exp(-jnp.abs(place[:, :, None] - place[:, None]))
  mean = jnp.einsum("bij,bj...->bi...", near, x_t) / size
  return d.Denoised(jnp.tanh(mean) + 0.1 * p.expand(t))


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_covers_a_video_of_any_length_and_knows_only_the_past(name):
  for num_frames in (*range(2, 130), 1000, 1001):
    stages = PLANS[name](num_frames)
    long_video._check(stages, num_frames)
    sampled = [i for index, known in stages for i in index[~known]]
    assert sorted(sampled) == list(range(num_frames))  # each frame exactly once
    for index, _ in stages:
      assert all(len(set(row)) == len(row) for row in index.tolist())
      assert index.shape[1] <= 8


LONG = {
  **{
    name: functools.partial(long_video.rollout, sampler=euler.euler, plan=PLANS[name])
    for name in ("extend", "hierarchical")
  },
  "windows": lambda denoise, *args: euler.euler(
    d.windows(denoise, None, size=8, stride=4), *args
  ),
}


@pytest.mark.parametrize("name", suite.choose(LONG, "extend", "windows"))
def test_a_thousand_frames_take_the_memory_of_a_hundred(name):
  """But for the video itself; the denoiser's inside is 256 numbers a pixel."""
  weights = drawn.normal(256, 256) / 16

  def wide(x_t, t, cond):
    inside = jnp.tanh(jnp.tanh(x_t * weights[0]) @ weights)  # a product is not fused
    return d.Denoised(inside @ weights[:, :1])

  def memory(num_frames, sampler):
    x = jax.ShapeDtypeStruct((1, num_frames, 8, 8, 1), jnp.float32)
    run = lambda x: sampler(wide, FLOW, x, TS, None, KEY)
    stats = jax.jit(run).lower(x).compile().memory_analysis()
    return stats.temp_size_in_bytes / (4 * 8 * 8)  # frames

  hundred, thousand = memory(100, LONG[name]), memory(1000, LONG[name])
  assert thousand - hundred < 10 * 900  # a few copies of the video
  assert memory(1000, euler.euler) > 200 * 1000 + thousand  # without windows


def test_plans_give_what_they_say():
  (first, second) = PLANS["extend"](18)
  np.testing.assert_array_equal(first[0], [range(8)])
  np.testing.assert_array_equal(second[0], [range(5, 13), range(10, 18)])
  assert second[1][:, :3].all() and not second[1][:, 3:].any()
  _, far = PLANS["remember"](11)
  np.testing.assert_array_equal(far[0], [[0, 1, 5, 6, 7, 8, 9, 10]])
  _, far = PLANS["remember_far"](70)
  context = far[0][-1][:5]
  assert context[0] == 0 and (np.diff(np.diff(context)) < 0).all()
  keys, gaps = PLANS["hierarchical"](16)
  np.testing.assert_array_equal(keys[0], [[0, 3, 6, 9, 12, 15]])
  np.testing.assert_array_equal(gaps[0][0], range(7))
  np.testing.assert_array_equal(gaps[1][0], [1, 0, 0, 1, 0, 0, 1])


SAMPLERS = [unipc.unipc, ancestral.ancestral]
SAMPLERS += suite.only_complete(euler.euler, dpm_solver.dpm_solver)


@pytest.mark.parametrize(
  "name", suite.choose(("extend", "remember", "remember_far"), "remember")
)
def test_a_video_of_one_window_is_the_base_samplers_to_the_bit(name):
  plan = PLANS[name]
  x = drawn.normal(2, 8, 2, 2, 1, seed=1)

  @jax.jit
  def run(x):
    args = (mixing, FLOW, x, TS, None, KEY)
    whole = [s(*args) for s in SAMPLERS]
    parts = [long_video.rollout(*args, sampler=s, plan=plan) for s in SAMPLERS]
    return whole, parts

  for whole, part in zip(*run(x), strict=True):
    np.testing.assert_array_equal(whole, part)


def test_one_window_that_is_averaged_is_the_base_sampler_too():
  kinds = d.triangular_weights, d.uniform_weights
  one = [d.windows(mixing, None, size=8, stride=4, weights=w) for w in kinds]
  run = lambda x: [euler.euler(m, FLOW, x, TS, None, KEY) for m in (mixing, *one)]
  base, *others = jax.jit(run)(drawn.normal(2, 8, 2, 2, 1, seed=1))
  for out in others:
    np.testing.assert_array_equal(out, base)


@pytest.mark.parametrize("name", suite.choose(PLANS, "hierarchical"))
def test_a_rollout_is_its_windows_one_by_one(name):
  """Written out, window by window, with `given` and numpy."""
  x = drawn.normal(2, 19, 2, 2, 1, seed=2)
  plan = PLANS[name]
  run = functools.partial(long_video.rollout, mixing, FLOW, sampler=euler.euler)
  run = functools.partial(run, plan=plan, ts=TS, cond=None, key=KEY)
  out = jax.jit(run)(x=x)

  video = np.zeros_like(x)
  for index, known in plan(19):
    sample = jax.jit(functools.partial(euler.euler, d.hold_known(mixing, None), FLOW))
    for frames, given in zip(index, known, strict=True):
      mask = np.broadcast_to(given[None, :, None, None, None], (2, len(given), 1, 1, 1))
      place = np.broadcast_to(frames - frames[0], (2, len(frames)))
      cond = Conditioning(known=video[:, frames], mask=mask, positions=place)
      new = sample(np.where(mask, video[:, frames], x[:, frames]), TS, cond, KEY)
      video[:, frames] = np.where(mask, video[:, frames], new)
  np.testing.assert_allclose(out, video, atol=1e-5)
  other = jax.jit(functools.partial(run, known_wrapper=d.replace_known))(x=x)
  assert not np.allclose(out, other, atol=1e-2)


def given(frames, batch_size, num_frames):
  """The mask [B, T, 1, 1, 1] of these frames."""
  mask = np.isin(np.arange(num_frames), frames)[None, :, None, None, None]
  return np.repeat(mask, batch_size, axis=0)


def test_given_frames_stay_through_a_rollout_to_the_bit():
  x, known = drawn.normal(2, 2, 19, 2, 2, 1, seed=3)
  cond = Conditioning(known=known, mask=given([0, 7, 18], 2, 19))
  run = functools.partial(long_video.rollout, mixing, FLOW, sampler=euler.euler)
  for name in suite.choose(PLANS, "remember", "hierarchical"):
    sample = jax.jit(functools.partial(run, ts=TS, key=KEY, plan=PLANS[name]))
    out = np.asarray(sample(x=x, cond=cond))
    np.testing.assert_array_equal(out[:, [0, 7, 18]], known[:, [0, 7, 18]])


def test_filling_between_given_key_frames_is_the_second_half_of_hierarchical():
  x = drawn.normal(2, 20, 2, 2, 1, seed=7)
  rollout = functools.partial(long_video.rollout, mixing, FLOW, x, TS, key=KEY)
  rollout = functools.partial(rollout, sampler=euler.euler)
  run = jax.jit(lambda name, cond: rollout(cond, plan=PLANS[name]), static_argnums=0)
  whole = np.asarray(run("hierarchical", None))
  cond = Conditioning(mask=given(long_video.key_frame_indices(20, 3), 2, 20))
  fill = lambda known: run("fill", cond.replace(known=known))
  np.testing.assert_allclose(fill(whole), whole, atol=1e-6)
  change = np.abs(fill(whole + 1.0) - whole)
  assert change[:, ~cond.mask[0, :, 0, 0, 0]].min() > 1e-3  # they do read their ends
  with pytest.raises(ValueError, match="between two key frames"):
    long_video.interpolation_plan(20, window=8, stride=8)


def test_replaced_frames_travel_with_their_own_noise():
  """Given frames under `replace` are alpha known + sigma eps at every time."""
  x, known = drawn.normal(2, 1, 4, 2, 2, 1, seed=4)

  @jax.jit
  def run(x, cond):
    seen = []

    def denoise(x_t, t, cond):
      seen.append((x_t, t))
      return d.Denoised(0 * x_t)

    with jax.disable_jit():  # the loop, step by step
      ddim.ddim(d.replace_known(denoise, None), FLOW, x, TS, cond, KEY)
    return seen

  seen = run(x, Conditioning(known=known, mask=given([0, 1], 1, 4)))
  for (x_t, t), expected in zip(seen, TS[:-1], strict=True):
    np.testing.assert_array_equal(t, np.full((1, 4), expected))
    want = (1.0 - expected) * known + expected * x
    np.testing.assert_allclose(np.asarray(x_t)[:, :2], want[:, :2], atol=1e-4)


def test_windows_average_by_their_weights():
  """A denoiser that answers with its window's first value, weighed by hand."""
  x = np.arange(10.0, dtype=np.float32).reshape(1, 10, 1, 1, 1)
  answer = lambda x_t, t, cond: d.Denoised(jnp.ones_like(x_t) * x_t[:, :1])
  t = np.ones((1, 10), np.float32)
  for weights, g in (
    (d.uniform_weights, [1, 1, 1, 1]),
    (d.triangular_weights, [1, 2, 2, 1]),
  ):
    run = d.windows(answer, None, size=4, stride=3, weights=weights)
    sums, total = np.zeros(10), np.zeros(10)
    for start in (0, 3, 6):
      sums[start : start + 4] += np.multiply(g, start)
      total[start : start + 4] += g
    out = np.asarray(jax.jit(run)(x, t, None).x0)
    np.testing.assert_allclose(out.ravel(), sums / total, rtol=1e-6)
  with pytest.raises(ValueError, match="4 frames take 1 to 4"):
    d.windows(answer, None, size=4, stride=5)


def test_windows_cut_the_condition():
  seen = lambda x_t, t, cond: d.Denoised(cond.channels["low_res"] + 0 * x_t)
  low_res = drawn.normal(2, 9, 2, 2, 1, seed=5)
  cond = Conditioning(channels={"low_res": low_res})
  run = jax.jit(d.windows(seen, None, size=4, stride=2))
  out = run(0 * low_res, np.ones((2, 9)), cond).x0
  np.testing.assert_allclose(out, low_res, atol=1e-6)


QUEUES = [(False, unipc.unipc), (True, euler.euler)]
QUEUES += suite.only_complete((False, euler.euler), (True, unipc.unipc))


@pytest.mark.parametrize("look_ahead, sampler", QUEUES)
def test_a_queue_denoises_every_frame_from_its_neighbours(look_ahead, sampler):
  """Where every frame is denoised for itself, a queue is the plain sampler."""
  framewise = lambda x_t, t, cond: d.Denoised(jnp.tanh(x_t) + p.expand(t))
  ts = times.uniform_grid(FLOW, num_steps=8)
  matrix = schedules.fifo(ts, 21)
  wrap = functools.partial(d.fifo_windows, window=4, in_flight=8, look_ahead=look_ahead)
  x = drawn.normal(2, 21, 2, 2, 1, seed=6)

  @jax.jit
  def run(x):
    queue = sampler(wrap(framewise, None), FLOW, x, matrix, None, KEY)
    return queue, sampler(framewise, FLOW, x, ts, None, KEY)

  np.testing.assert_allclose(*run(x), atol=1e-5)
  calls = []
  count = lambda x_t, t, cond: calls.append(x_t.shape) or framewise(x_t, t, cond)
  jax.eval_shape(wrap(count, None), x, np.ones((2, 21)), None)
  assert {shape[1] for shape in calls} == {4}
  with pytest.raises(ValueError, match="in flight do not fit"):
    wrap(framewise, None)(x[:, :7], np.ones((2, 7)), None)
  with pytest.raises(ValueError, match="multiple of window=4"):
    d.fifo_windows(framewise, None, window=4, in_flight=10)


def test_bad_plans_are_refused():
  x = drawn.normal(1, 6, 1, 1, 1)
  rollout = functools.partial(long_video.rollout, mixing, FLOW, x, TS, None, KEY)
  run = lambda *stages: rollout(sampler=euler.euler, plan=lambda n: stages)
  every = range(6)
  calls = {
    r"leaves out frames \[4, 5\]": lambda: run(([range(4)], [[0] * 4])),
    r"takes \[0\] as known": lambda: run(([every], [[1, 0, 0, 0, 0, 0]])),
    "in a window of 1;": lambda: PLANS["hierarchical"](1),
    "windows, frames": lambda: run(([every], [[1, 0]])),
    "leave nothing to sample": lambda: PLANS["extend"](20, overlap=8),
    "between two key frames": lambda: PLANS["hierarchical"](20, stride=8),
  }
  refused(ValueError, calls)
