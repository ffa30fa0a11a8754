"""Step caches: which parts of a network are computed in which step, and which re-used.

From one step of a sampler to the next the output of a part of the network hardly
changes. A plan, times -> [CacheMode(reuse, keep)], says before anything is compiled
what each call re-uses: `pyramid_attention_broadcast`, `mag_cache`, `keep_all_modes`.

`denoise.cached` puts a plan into a config, and `samplers.loop.run_steps` carries what
is kept from step to step.
"""

import dataclasses
from collections.abc import Callable
from concurrent import futures
from typing import NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np


class CacheMode(NamedTuple):
  """What one network call takes from a step cache (reuse) and stores in it (keep).

  Both are names of parts: "spatial", "temporal", "full", "cross" (attentions), "stack"
  (all blocks). The stored output of a part replaces its computation.
  """

  reuse: tuple[str, ...] = ()
  keep: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class CachedDenoiserFactory:
  """Gives each step of a sampler its denoiser, by a cache of what earlier steps stored.

  It re-uses stored outputs of its network's parts in some steps. Samplers take it as a
  denoiser; only `samplers.loop.run_steps` knows how, and to call it is a ValueError.

  Attributes:
    denoise: a denoise.NetworkDenoiser.
    plan: times [calls], in the network's units -> list of a CacheMode for each call.
    on_update: (index of the call, old cache, new cache) -> None, for each call that
      replaces what was stored, {path: array}; None: not called.
    wrappers: ((wrap, null), ...), wrap (denoise, null) -> denoise, innermost first.
  """

  denoise: Callable
  plan: Callable
  on_update: Callable | None = None
  wrappers: tuple = ()

  def __call__(self, x_t, t, cond):
    raise ValueError(
      "A denoiser with a step cache is called step after step by loop.run_steps; "
      "ddim.invert, long_video.rollout and single calls take it without `cached`."
    )

  def with_wrapper(self, wrap, null):
    """This denoiser in one more wrapper: wrap is (denoise, null) -> denoise."""
    return dataclasses.replace(self, wrappers=(*self.wrappers, (wrap, null)))

  def denoiser_and_step_modes(self, ts, calls):
    """(denoiser, modes): itself, and for each step a tuple of `calls` CacheModes.

    (The wrapped denoiser without a cache, None) where the plan keeps nothing.

    Args:
      ts: NumPy times [S + 1] or [S + 1, T], equal for all frames; call k of step i is
        at ts[i + k], or at the last time.
      calls: number of calls of the network in a step.
    """
    if isinstance(ts, jax.core.Tracer):
      raise ValueError(
        "A step cache's plan follows from the grid of times before anything is "
        "compiled, and this grid is traced; make it of NumPy, outside of jit."
      )
    ts = np.asarray(ts, float)
    if ts.ndim == 2 and (ts != ts[:, :1]).any():
      raise ValueError(
        f"ts {ts.shape} has other times for other frames; a step cache needs one time "
        "for all frames, [S + 1]. Leave out `cached` with a schedule matrix."
      )
    ts = ts if ts.ndim == 1 else ts[:, 0]
    steps = range(len(ts) - 1)
    at = np.minimum(np.add.outer(steps, range(calls)).ravel(), len(steps))
    modes = list(self.plan(self._network_times(ts[at])))
    if len(modes) != len(at):
      raise ValueError(
        f"The plan {self.plan} gave {len(modes)} modes for {len(at)} calls of the "
        "network; expected one for each."
      )
    left = set()
    for i, mode in enumerate(modes):
      if lost := sorted(set(mode.reuse) - left):
        raise ValueError(f"Call {i} of the plan re-uses {lost}, which no call kept.")
      left |= set(mode.keep)
    if not left:
      return _around(self.denoise, self.wrappers), None
    return self, [tuple(modes[i * calls : (i + 1) * calls]) for i in steps]

  def _network_times(self, t):
    """Times t [calls] in the network's units.

    In a thread of its own, where nothing is being traced and no mesh is in use: the
    program may be compiled for devices that are not here.
    """
    x = np.zeros((len(t), 1, 1, 1, 1), np.float32)
    inputs = self.denoise.process.network_inputs
    network_time = lambda: np.asarray(inputs(x, jnp.asarray(t[:, None], float))[1])
    with futures.ThreadPoolExecutor(1) as pool:
      return pool.submit(network_time).result()[:, 0]

  def step_denoiser_and_finish(self, modes, cache, step, shape):
    """(denoise, finish) of one step; `finish()` returns the cache after its calls.

    Args:
      modes: a CacheMode for each call in the step.
      cache: {path in the network: array}, stored by the steps before.
      step: index of the step.
      shape: of the video, [B, T, H, W, C].
    """
    caches = [cache]

    def denoise(x_t, t, cond):
      call = len(caches) - 1
      if x_t.shape[1] != shape[1]:
        raise ValueError(
          f"A step cache holds all {shape[1]} frames of a video and the denoiser was "
          f"called with {x_t.shape[1]}; leave out `cached`, or the wrappers `windows` "
          "and `fifo_windows`."
        )
      if call == len(modes):
        raise ValueError(
          f"A step made more than {call} calls; tell loop.run_steps `calls`."
        )
      mode, old = modes[call], caches[-1]
      held = {path: x for path, x in old.items() if path[-1] in mode.reuse}
      estimate = self.denoise(x_t, t, cond, cache=held, keep=mode.keep)
      new = flax.traverse_util.flatten_dict(estimate.kept)
      missing = sorted(set(mode.keep) - {path[-1] for path in new})
      if missing:
        raise ValueError(
          f"The plan re-uses {missing}, of which the network has none; it has "
          f"{sorted({path[-1] for path in new})} of what the plan keeps."
        )
      if self.on_update is not None and new and new.keys() <= old.keys():
        self.on_update(step * len(modes) + call, old, new)
      caches.append({**old, **new})
      return estimate.replace(kept=None)

    def finish():
      if len(caches) <= len(modes):
        raise ValueError(
          f"A step made {len(caches) - 1} calls of {len(modes)}; give loop.run_steps "
          "as many `calls`."
        )
      return caches[-1]

    return _around(denoise, self.wrappers), finish


def keep_all_modes_for_one_step(modes_of_steps):
  """A step's tuple of CacheModes that re-use nothing and keep all that any step keeps.

  `modes_of_steps` has for each step a tuple with a CacheMode for each of its calls.
  """
  names = {name for modes in modes_of_steps for mode in modes for name in mode.keep}
  return (CacheMode((), tuple(sorted(names))),) * len(modes_of_steps[0])


def modes_from_reused_parts(reused_parts):
  """A list of CacheModes from [set of names of the parts that a call re-uses].

  A part is kept by the last call that computes it before its re-use.
  """
  after = [*reused_parts[1:], set()]
  return [
    CacheMode(tuple(sorted(now)), tuple(sorted(then - now)))
    for now, then in zip(reused_parts, after, strict=True)
  ]


def pyramid_attention_broadcast(
  times, *, spatial=1, temporal=1, cross=1, full=1, window=(100, 800)
):
  """A list of CacheModes, one a call: attentions re-used with a period for each kind.

  Inside the window of times an attention is computed in every n-th call, counted from
  the first call, and its output before gating is re-used in the calls between. The
  rule of diffusers' PyramidAttentionBroadcastConfig, https://arxiv.org/abs/2408.12588.

  Args:
    times: [calls], in the network's units: 0 to 1000 but for EDM.
    spatial, temporal, cross, full: n of each kind of attention; 1 re-uses nothing. The
      paper takes 2, 4 and 6 for Latte.
    window: (low, high), two such times, both excluded.
  """
  ranges = dict(spatial=spatial, temporal=temporal, cross=cross, full=full)
  for name, value in ranges.items():
    if value < 1:
      raise ValueError(
        f"{name}={value}; an attention is computed every 1st call or less often."
      )
  low, high = window
  return modes_from_reused_parts(
    [
      {name for name, n in ranges.items() if low < t < high and i % n}
      for i, t in enumerate(times)
    ]
  )


def mag_cache(times, *, ratios, threshold, max_skips=3, retain=0.2):
  """A list of CacheModes, one a call: MagCache re-uses the residual of all blocks.

  With m_i the measured ratio of its norms in calls i and i - 1, a call is skipped if
  the sum of |1 - m m' m'' ..| since the last computed one stays below `threshold`.
  https://arxiv.org/abs/2506.09045.

  Args:
    times: [calls]; only their number is used.
    ratios: m_i of each call of a run that computed all (studies.calibrate); for another
      number of calls, those at the nearest ones.
    threshold: 0 re-uses nothing.
    max_skips: the most calls in a row that are skipped.
    retain: share of the calls, the first ones, that are always computed.
  """
  if threshold < 0 or max_skips < 0 or not 0 <= retain <= 1 or not len(ratios):
    raise ValueError(
      f"threshold={threshold}, max_skips={max_skips}, retain={retain} and "
      f"{len(ratios)} ratios; expected >= 0, >= 0, 0 to 1, and at least one ratio."
    )
  count, reuse = len(times), []
  at = np.round(np.linspace(0, len(ratios) - 1, count)).astype(int)
  product, total, passed = 1.0, 0.0, 0
  for i, ratio in enumerate(np.asarray(ratios, float)[at]):
    skip = False
    if i >= max(1, int(retain * count + 0.5)):
      product, passed = product * ratio, passed + 1
      total += abs(1.0 - product)
      skip = total < threshold and passed <= max_skips
    if not skip:
      product, total, passed = 1.0, 0.0, 0
    reuse.append({"stack"} if skip else set())
  return modes_from_reused_parts(reuse)


def keep_all_modes(times, *, names=("stack",)):
  """CacheModes, one for each of `times`: all is computed, parts `names` are stored."""
  return [CacheMode((), tuple(names))] * len(times)


def repeats_and_patterns(steps, longest=64):
  """[(repeats, pattern)]: the steps as repeated patterns, each to become one loop.

  A pattern is a tuple of items of `steps`. The sum of the patterns' lengths, which have
  to be compiled, is the least possible; periods of 2, 4 and 6 repeat after 12.

  Args:
    steps: a list of hashable items, one a step.
    longest: the longest pattern to search for.
  """
  names = list(dict.fromkeys(steps))
  numbers = [names.index(step) for step in steps]
  count = len(steps)
  best = [(0, 0, None)] * (count + 1)  # from a step on: bodies, loops, the first loop
  for i in reversed(range(count)):
    options = []
    for length in range(1, min(longest, count - i) + 1):
      pattern, end = numbers[i : i + length], i + length
      while numbers[end - length : end] == pattern:
        bodies, loops, _ = best[end]
        options.append((bodies + length, loops + 1, (i, end, length)))
        end += length
    best[i] = min(options)
  out, i = [], 0
  while i < count:
    _, end, length = best[i][2]
    out.append(((end - i) // length, tuple(steps[i : i + length])))
    i = end
  return out


def _around(denoise, wrappers):
  for wrap, null in wrappers:
    denoise = wrap(denoise, null)
  return denoise
