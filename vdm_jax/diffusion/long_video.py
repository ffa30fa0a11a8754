"""Long videos from a denoiser of short ones: windows of frames, one after another.

A plan, num_frames -> [(index [K, w], known [K, w])], gives stages of K windows of w
frames, and which of these are known by then. `rollout` makes a sampler of short videos
a sampler of long ones by any plan.
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
  """A sampler of long videos: x0 [B, T, H, W, C], window by window of a plan.

  One window is compiled for each stage of the plan. The denoiser gets the positions of
  a window's frames, from its first one, as `cond.positions`, and the channels, hints
  and known frames of `cond` that belong to them.

  Args:
    denoise: (x_t, t [B, w], cond) -> Denoised, of windows of w frames.
    process: forward process, which gives alpha and sigma of t.
    x: [B, T, H, W, C] the initial noise of each frame.
    ts: [S + 1], or [S + 1, T], of which a window takes its frames' columns.
    cond: Conditioning of the whole video, or None.
    key: PRNG key.
    sampler: of a window, (denoise, process, x, ts, cond, key) -> x0.
    plan: num_frames -> stages [(index [K, w], known [K, w])], K windows each, and which
      of their frames are known by then. Every frame must be in a window in which it is
      not yet known.
    known_wrapper: how known frames are held: `denoise.hold_known` (at time 0,
      diffusion forcing) or `denoise.replace_known` (noised like the others).
    renoise_known: with `replace_known`, each window noises its known frames anew, as
      published; False, with the noise in x that they came from, which leaves smaller
      seams.
  """
  x, num_frames = jnp.asarray(x), x.shape[1]
  ts = loop.schedule_matrix(ts, num_frames)
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
    positions = jnp.broadcast_to(index - index[0], mask.shape[:2])
    part = conditioning.take_frames(cond, index)
    part = part.replace(known=old, mask=mask, positions=positions)
    k_window = loop.fold_key(key, number)
    start = x[:, index]
    if known_wrapper is d.hold_known:
      start = jnp.where(mask, old, start)
    else:
      eps = (
        at(sigma) * loop.noise_by_frame(k_window, x.shape)[:, index]
        if renoise_known
        else start
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


def extension_plan(num_frames, *, window, overlap):
  """Windows of a long video, [(index [K, w], known [K, w])] for `rollout`, in stages.

  `index` are the frames of K windows of w = `window`, `known` is True for those that a
  window before has sampled: here the first `overlap` of each, as in LVDM's prediction
  model and diffusion forcing. The last window moves back to end with the video.
  """
  return first_and_recent_plan(num_frames, window=window, first=0, recent=overlap)


def first_and_recent_plan(num_frames, *, window, first, recent):
  """Windows of a long video, [(index [K, w], known [K, w])] for `rollout`, in stages.

  `index` are the frames of K windows of w = `window`, `known` is True for those that a
  window before has sampled: here the `first` frames of the video and the `recent` ones
  before the new frames, as the attention sinks of https://arxiv.org/abs/2309.17453.
  """

  def context(start):
    return [*range(first), *range(start - recent, start)]

  return _chunks(num_frames, window, first + recent, context)


def sparse_past_plan(num_frames, *, window, context):
  """Windows of a long video, [(index [K, w], known [K, w])] for `rollout`, in stages.

  `index` are the frames of K windows of w = `window`, `known` is True for those that a
  window before has sampled: here `context` frames, sparser towards frame 0, whose
  distances are even in logarithm, as FramePack's compression of the past, arXiv
  2504.12626.
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


def interpolation_plan(num_frames, *, window, stride):
  """Windows of a long video, [(index [K, w], known [K, w])] for `rollout`, in stages.

  One stage: interpolation between key frames (every stride-th and the last), which
  `cond.mask` marks. `index` are the frames of K windows of w <= `window`, with as many
  gaps as they can hold; `known` is True for frames that a window before has sampled.
  LVDM, AlignYourLatents.
  """
  return [_gaps(num_frames, window, stride, sampled=())]


def hierarchical_plan(num_frames, *, window, stride):
  """Windows of a long video, [(index [K, w], known [K, w])] for `rollout`, in stages.

  First key frames, every stride-th and the last, in windows that overlap by one; then
  the frames between. `index` are the frames of K windows of w <= `window`, `known` is
  True for those that a window before has sampled. AlignYourLatents, NUWA-XL.
  """
  keys = key_frame_indices(num_frames, stride)
  size = min(window, len(keys))
  chunks = extension_plan(len(keys), window=size, overlap=1)
  stages = [(keys[index], known) for index, known in chunks]
  return [*stages, _gaps(num_frames, window, stride, sampled=keys.tolist())]


def key_frame_indices(num_frames, stride):
  """Indices [K] of every stride-th frame and the last, integers."""
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
