"""Step caches: which parts of a network are computed in which step, and which re-used.

From one step of a sampler to the next, what a part of the network adds hardly changes.
A plan says, before anything is compiled, what each call of the network re-uses:

  plan(times) -> [Mode(reuse, keep)], one for each call

  broadcast   outputs of attentions, each at its own rhythm: pyramid attention
              broadcast, https://arxiv.org/abs/2408.12588
  magnitude   what all blocks together add, while its length hardly changes: MagCache,
              https://arxiv.org/abs/2506.09045
  keep_all    nothing, but everything is kept: to look at it

`denoise.cached` puts a plan into a config, and `samplers.loop.run_steps` carries what
is kept from step to step. Parts are named "spatial", "temporal", "full", "cross"
(attentions) and "stack" (all blocks).
"""

import dataclasses
from collections.abc import Callable
from concurrent import futures
from typing import NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np


class Mode(NamedTuple):
  """One call of the network: the parts it takes from earlier calls, those it leaves."""

  reuse: tuple[str, ...] = ()
  keep: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class CachedDenoiser:
  """A denoiser with a memory, which only a sampler's loop can call.

  Attributes:
    denoise: of a network, see denoise.from_network.
    plan: see above; it is told the times as the network sees them.
    watch: (call, old cache, new cache), called with each call's number when it has
      kept something.
    wrappers: ((wrap, null), ...) around it, innermost first.
  """

  denoise: Callable
  plan: Callable
  watch: Callable | None = None
  wrappers: tuple = ()

  def __call__(self, x_t, t, cond):
    raise ValueError(
      "A denoiser with a step cache is called step after step by loop.run_steps; "
      "ddim.invert, long_video.rollout and single calls take it without `cached`."
    )

  def wrapped(self, wrap, null):
    return dataclasses.replace(self, wrappers=(*self.wrappers, (wrap, null)))

  def planned(self, ts, calls):
    """(denoise, modes): itself, and of each step a tuple of `calls` modes.

    Where nothing is kept, the denoiser without a memory, and None.

    Args:
      ts: [S + 1] or [S + 1, T]; call k of step i is at ts[i + k], or the last time.
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
    modes = list(self.plan(self._seen(ts[at])))
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

  def _seen(self, t):
    """Times [calls] as the network is told them.

    In a thread of its own, where nothing is being traced and no mesh is in use: the
    program may be compiled for devices that are not here.
    """
    x = np.zeros((len(t), 1, 1, 1, 1), np.float32)
    inputs = self.denoise.process.network_inputs
    tell = lambda: np.asarray(inputs(x, jnp.asarray(t[:, None], float))[1])
    with futures.ThreadPoolExecutor(1) as pool:
      return pool.submit(tell).result()[:, 0]

  def during(self, modes, cache, step, shape):
    """(denoise, finish) of one step; `finish()` is the cache after its calls.

    Args:
      modes: of each call in the step.
      cache: {path in the network: array}, of the steps before.
      step: its number.
      shape: of the video, [B, T, H, W, C].
    """
    caches = [cache]

    def denoise(x_t, t, cond):
      call = len(caches) - 1
      if x_t.shape[1] != shape[1]:
        raise ValueError(
          f"A step cache holds all {shape[1]} frames of a video and the denoiser was "
          f"shown {x_t.shape[1]}; leave out `cached`, or the wrappers `windows` and "
          "`fifo_windows`."
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
          f"{sorted({path[-1] for path in new})} of what the plan wants."
        )
      if self.watch is not None and new and new.keys() <= old.keys():
        self.watch(step * len(modes) + call, old, new)
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


def union_of_modes(steps):
  """The modes of a step that keeps all that any of the steps keeps."""
  names = {name for modes in steps for mode in modes for name in mode.keep}
  return (Mode((), tuple(sorted(names))),) * len(steps[0])


def modes_from_reuse(reuse):
  """[Mode]: a part is kept by the last call that computes it before it is re-used.

  Args:
    reuse: the names that each call re-uses, a list of sets.
  """
  after = [*reuse[1:], set()]
  return [
    Mode(tuple(sorted(now)), tuple(sorted(then - now)))
    for now, then in zip(reuse, after, strict=True)
  ]


def pyramid_attention_broadcast(
  times, *, spatial=1, temporal=1, cross=1, full=1, window=(100, 800)
):
  """Attention outputs live for several calls, between two times.

  Inside the window an attention is computed in every `range`-th call, counted from the
  first call of all, and its output before gating is re-used in those between. The rule
  of diffusers' PyramidAttentionBroadcastConfig, with its window.

  Args:
    times: [calls], as the network sees them: 0 to 1000 but for EDM.
    spatial, temporal, cross, full: ranges in calls; 1 re-uses nothing. Latte's authors
      of the method take 2, 4 and 6.
    window: two such times, both excluded.
  """
  ranges = dict(spatial=spatial, temporal=temporal, cross=cross, full=full)
  for name, value in ranges.items():
    if value < 1:
      raise ValueError(f"{name}={value}; an attention lives for 1 call or more.")
  low, high = window
  return modes_from_reuse(
    [
      {name for name, n in ranges.items() if low < t < high and i % n}
      for i, t in enumerate(times)
    ]
  )


def mag_cache(times, *, ratios, threshold, max_skips=3, retain=0.2):
  """What all blocks add is re-used while its length is about the same.

  With m_i the measured ratio of its lengths in calls i and i - 1, a call is passed over
  if since the last computed one the sum of |1 - m m' m'' ..| stays below `threshold`.

  Args:
    times: [calls].
    ratios: m_i of each call of a run that computed all, see studies/calibrate.py; of
      another number of calls, the nearest one counts.
    threshold: 0 re-uses nothing.
    max_skips: the most calls in a row that are passed over.
    retain: part of the calls, the first ones, that are computed in any case.
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
  return modes_from_reuse(reuse)


def keep_all(times, *, names=("stack",)):
  """Every call computes everything and keeps the named parts."""
  return [Mode((), tuple(names))] * len(times)


def repeated_segments(steps, longest=64):
  """[(repeats, pattern)]: the steps as patterns that repeat, each to become one loop.

  The sum of the patterns' lengths, which is what has to be compiled, is the smallest
  there is, and never more than the steps. Rhythms of 2, 4 and 6 repeat after 12.

  Args:
    steps: a list of hashable modes.
    longest: of patterns that are looked for.
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
