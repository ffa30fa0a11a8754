"""Long videos from a denoiser of short ones: a plan of windows, one after another.

A plan says which frames stand in each window and which of them are known by then:

  plan(num_frames) -> [(index [K, w], known [K, w]), ...]

stages of K windows of w frames. `rollout` makes a sampler of short videos a sampler of
long ones by any plan. Autoregression, memory of the beginning, key frames and what
lies between them are different tables, not different code:

  extend        w frames at a time, the last ones given
  remember      the same, with the first frames of the video given too
  remember_far  the same, the given frames ever sparser towards the past
  fill          the frames between key frames that the caller gives
  hierarchical  key frames first, then the frames between them
"""

import jax
import jax.numpy as jnp
import numpy as np

from vdm_jax import conditioning
from vdm_jax.diffusion import denoise as d
from vdm_jax.diffusion import masks
from vdm_jax.diffusion.samplers import loop


def rollout(
  denoise,
  process,
  x,
  ts,
  cond,
  key,
  *,
  sampler,
  plan,
  known_wrapper=d.hold_known,
  renoise_known=False,
):
  """Samples the windows of a plan in turn; a sampler itself, on the whole video.

  One window is compiled for each stage of the plan. `cond.positions` tells the denoiser
  how far the frames of a window lie apart, from its first one; its channels, hints
  and given frames are gathered.

  Args:
    x: [B, T, H, W, C] the start: noise for each frame, wherever it is sampled.
    ts: [S + 1], or [S + 1, T], of which a window takes its frames' columns.
    sampler: of a window, (denoise, process, x, ts, cond, key) -> x0.
    plan: see above. Every frame must be in a window in which it is not yet known.
    known_wrapper: how known frames are held: `denoise.hold_known` (at time 0,
      diffusion forcing) or `denoise.replace_known` (noised like the others).
    renoise_known: with `replace_known`, each window noises its known frames anew, as
      published; False, with the noise in x that they came from, which leaves smaller
      seams.
  """
  x, num_frames = jnp.asarray(x), x.shape[1]
  ts = loop.time_matrix(ts, num_frames)
  stages = [(np.asarray(i), np.asarray(known, bool)) for i, known in plan(num_frames)]
  _check(stages, num_frames)
  index, known = stages[0]
  if np.array_equal(index, [range(num_frames)]) and not known.any():
    return sampler(denoise, process, x, ts, cond, key)  # one window: the whole video

  cond = conditioning.Conditioning() if cond is None else cond
  fixed, video = jnp.zeros((1, 1, 1, 1, 1), bool), jnp.zeros_like(x)
  if cond.mask is not None:
    fixed, video = cond.mask, jnp.where(cond.mask, cond.known, video)
  fixed = masks.broadcast(fixed, *x.shape[:2])
  denoise = known_wrapper(denoise, None)
  alpha, sigma = process.alpha_sigma(ts[0])

  def window(video, inputs):
    index, known, number = inputs
    mask = fixed[:, index] | known[:, None, None, None]
    old, at = video[:, index], lambda c: c[index][:, None, None, None]
    place = jnp.broadcast_to(index - index[0], mask.shape[:2])
    part = conditioning.take(cond, index).replace(known=old, mask=mask, positions=place)
    k_window = loop.fold_key(key, number)
    start = x[:, index]
    if known_wrapper is d.hold_known:
      start = jnp.where(mask, old, start)
    else:
      eps = (
        at(sigma) * loop.noise(k_window, x.shape)[:, index] if renoise_known else start
      )
      start = jnp.where(mask, at(alpha) * old + eps, start)
    new = sampler(denoise, process, start, ts[:, index], part, k_window)
    return video.at[:, index].set(jnp.where(mask, old, new)), None

  done = 0
  for index, known in stages:
    numbers = done + np.arange(len(index))
    video, _ = jax.lax.scan(window, video, (jnp.asarray(index), known, numbers))
    done += len(index)
  return video


def extend(num_frames, *, window, overlap):
  """Windows of `window` frames, each given the `overlap` frames before it.

  Autoregression over chunks, as LVDM's prediction model and diffusion forcing do. The
  last window moves back to end with the video; more of it is then given.
  """
  return extend_with_first(num_frames, window=window, first=0, recent=overlap)


def extend_with_first(num_frames, *, window, first, recent):
  """As `extend`, given the `first` frames of the video and the `recent` ones.

  The attention sinks of https://arxiv.org/abs/2309.17453, as frames.
  """

  def context(start):
    return [*range(first), *range(start - recent, start)]

  return _chunks(num_frames, window, first + recent, context)


def extend_with_sparse_past(num_frames, *, window, context):
  """As `extend`, given `context` frames, ever sparser towards the past, to frame 0.

  Their distances are spread evenly in logarithm, as FramePack's compression of the
  past is: https://arxiv.org/abs/2504.12626.
  """

  def past(start):
    ideal = np.round(np.geomspace(1, start, context)).astype(int)
    chosen = []
    for distance in ideal:  # distinct: the near ones move outwards
      chosen.append(max(distance, chosen[-1] + 1) if chosen else distance)
    chosen[-1] = start
    for k in reversed(range(context - 1)):  # ... and none beyond the first frame
      chosen[k] = min(chosen[k], chosen[k + 1] - 1)
    return sorted(start - np.array(chosen))

  return _chunks(num_frames, window, context, past)


def fill_between_keyframes(num_frames, *, window, stride):
  """The frames between every stride-th frame and the last, which `cond.mask` gives.

  Interpolation of a video of few frames to one of many (LVDM, AlignYourLatents: T to
  4 T): each window takes as many gaps as it can hold, with the ends of each.
  """
  return [_gaps(num_frames, window, stride, sampled=())]


def hierarchical(num_frames, *, window, stride):
  """Every stride-th frame and the last, then the frames between, ends given.

  The key frames are sampled by windows that each give the next its last frame. Then
  each window takes as many gaps as it can hold. AlignYourLatents, NUWA-XL.
  """
  keys = key_frames(num_frames, stride)
  size = min(window, len(keys))
  chunks = extend(len(keys), window=size, overlap=1)
  stages = [(keys[index], known) for index, known in chunks]
  return [*stages, _gaps(num_frames, window, stride, sampled=keys.tolist())]


def key_frames(num_frames, stride):
  """Every stride-th frame and the last."""
  return np.array([*range(0, num_frames - 1, stride), num_frames - 1])


def _gaps(num_frames, window, stride, sampled):
  """(index, known) of windows from key frame to key frame; `sampled` are there."""
  if not 1 < stride < window:
    raise ValueError(f"stride={stride}; between two key frames lie 1 to {window - 2}.")
  gaps = max((window - 1) // stride, 1)
  size = min(gaps * stride + 1, num_frames)
  starts = np.arange(0, num_frames - 1, gaps * stride).clip(max=num_frames - size)
  index = starts[:, None] + np.arange(size)
  known, seen = np.zeros(index.shape, bool), set(sampled)
  for row, frames in enumerate(index):  # windows share a frame; the last reaches back
    known[row] = np.isin(frames, list(seen))
    seen |= set(frames.tolist())
  return index, known


def _chunks(num_frames, window, num_context, context):
  """Windows of `num_context` known frames, by context(start), and the next new ones."""
  if not 0 <= num_context < window:
    raise ValueError(
      f"{num_context} given frames leave nothing to sample in a window of {window}; "
      "give fewer."
    )
  if num_frames <= window:
    return [(np.arange(num_frames)[None], np.zeros((1, num_frames), bool))]
  new = window - num_context
  first = np.arange(window)[None], np.zeros((1, window), bool)
  index, known = [], []
  for start in range(window, num_frames, new):
    end = min(start + new, num_frames)
    begin = end - new  # the last chunk reaches back and is given what is there
    index.append([*context(begin), *range(begin, end)])
    known.append(np.asarray(index[-1]) < start)
  return [first, (np.array(index), np.array(known))]


def _check(stages, num_frames):
  """Refuses a plan that leaves a frame out, or gives one that is not there yet."""
  done = set()
  for index, known in stages:
    if index.shape != known.shape or index.ndim != 2:
      raise ValueError(
        f"A stage of the plan has index {index.shape} and known {known.shape}; both "
        "must be [windows, frames]."
      )
    for frames, given in zip(index, known, strict=True):
      early = sorted(set(frames[given].tolist()) - done)
      if early or not 0 <= frames.min() <= frames.max() < num_frames:
        raise ValueError(
          f"The plan's window {frames.tolist()} of a video of {num_frames} frames "
          f"takes {early or 'frames outside it'} as known; they are not sampled yet."
        )
      done |= set(frames.tolist())
  missing = sorted(set(range(num_frames)) - done)
  if missing:
    raise ValueError(f"The plan leaves out frames {missing} of {num_frames}.")
