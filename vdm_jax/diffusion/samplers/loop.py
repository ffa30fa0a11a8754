"""The loop that every sampler shares, and the noise that they draw.

Nothing of the trajectory is kept but a sampler's memory, such as earlier estimates.
"""

import flax
import jax
import jax.numpy as jnp
from einops import repeat

from vdm_jax import keys
from vdm_jax.diffusion import caching


@flax.struct.dataclass
class RecordedNoise:
  """Noise in place of a sampler's PRNG key: values[i] is used where step i would draw.

  Values are [S, B, T, H, W, C], inside a step [B, T, H, W, C]; with None a sampler that
  draws noise raises a ValueError.
  """

  values: jax.Array | None


def run_steps(step, denoise, x, ts, key, memory=None, calls=1):
  """x [B, T, H, W, C] after `step` for every interval of a falling grid of times.

  Frames whose time does not change in a step stay the same, to the bit, and so does
  their memory.

  Args:
    step: (denoise, x, t [B, T], t_next [B, T], key) -> x; with a memory
      (denoise, x, t, t_next, key, memory) -> (x, memory). It must call the `denoise`
      that it gets: with a step cache that is another one in each step.
    denoise: the sampler's denoiser.
    x: [B, T, H, W, C] the start, usually sigma(ts[0]) times noise.
    ts: [S + 1] one time for all frames, or [S + 1, T] one for each.
    key: PRNG key, or keys [B]; each step folds its index into it; or RecordedNoise.
    memory: a tree of arrays [B, T, ...], the memory before the first step.
    calls: of the denoiser in a step, the k-th at the time of the k-th step from here.
  """
  shape, grid, modes = x.shape, ts, None
  ts = repeat(schedule_matrix(ts, shape[1]), "s t -> s b t", b=shape[0])
  inputs = ts[:-1], ts[1:], jnp.arange(len(ts) - 1)
  if isinstance(denoise, caching.CachedDenoiserFactory):
    denoise, modes = denoise.denoiser_and_step_modes(grid, calls)

  def take(carry, inputs, mode):
    """A step; `mode` says what the network computes in it, None is everything."""
    x, memory, cache = carry
    t, t_next, i = inputs
    called, finish = denoise, lambda: None
    if mode is not None:
      called, finish = denoise.step_denoiser_and_finish(mode, cache, i, shape)
    extra = () if memory is None else (memory,)
    after = step(called, x, t, t_next, fold_key(key, i), *extra)
    after = (after, None) if memory is None else after
    waits = t == t_next
    over = lambda x: waits.reshape(waits.shape + (1,) * (x.ndim - 2))  # [B, T, 1 ..]
    keep = lambda old, new: jnp.where(over(new), old, new)
    return *jax.tree.map(keep, (x, memory), after), finish()

  carry, segments = (x, memory, None), [(len(ts) - 1, (None,))]
  if modes is not None:
    segments, first = (
      caching.repeats_and_patterns(modes),
      jax.tree.map(lambda a: a[0], inputs),
    )
    keep_all = caching.keep_all_modes_for_one_step(modes)
    start = lambda: take((x, memory, {}), first, keep_all)[2]
    empty = jax.tree.map(jnp.zeros_like, jax.eval_shape(start))
    carry = x, memory, empty
  done = 0
  for repeats, pattern in segments:

    def body(carry, inputs, pattern=pattern):
      for now, mode in zip(inputs, pattern, strict=True):
        carry = take(carry, now, mode)
      return carry, None

    stop = done + repeats * len(pattern)
    carry, _ = jax.lax.scan(body, carry, _strides(inputs, done, stop, len(pattern)))
    done = stop
  return carry[0]


def _strides(inputs, start, stop, size):
  """The inputs of steps start .. stop, dealt out to the `size` steps of a pattern."""
  return [tuple(a[start + k : stop : size] for a in inputs) for k in range(size)]


def schedule_matrix(ts, num_frames):
  """The schedule matrix [S + 1, T], float, of times ts [S + 1] or [S + 1, T]."""
  ts = jnp.asarray(ts, float)
  if ts.ndim not in (1, 2) or len(ts) < 2 or ts.shape[1:] not in ((), (num_frames,)):
    raise ValueError(
      f"ts {ts.shape}; expected [S + 1], or [S + 1, T] with T = {num_frames}, S >= 1."
    )
  return jnp.broadcast_to(ts.reshape(len(ts), -1), (len(ts), num_frames))


def last_step_times(ts, num_frames, count):
  """Times [T], a list of `count`, at which each frame's last steps start, last first.

  ts are falling times [S + 1], or [S + 1, T] for each frame; T = num_frames.
  """
  ts = schedule_matrix(ts, num_frames)
  starts, before = [], ts[-1]
  for _ in range(count):
    before = jnp.min(jnp.where(ts > before, ts, jnp.inf), axis=0)
    starts.append(before)
  return starts


def fold_key(key, i):
  """The key, or keys [B], of step i; for RecordedNoise, the noise of step i."""
  if _recorded(key):
    return jax.tree.map(lambda x: jnp.asarray(x)[i], key)
  return keys.fold_in(key, i)


def noise_by_frame(key, shape, first_frame=0):
  """Standard normal noise of `shape` [B, T, H, W, C], drawn for each frame on its own.

  Frame i depends on `key` and first_frame + i only: the noise of a long video is that
  of its parts. With keys [B] each video has noise of its own, in any batch. This needs
  a threefry key, jax's default: under vmap, "rbg" keys draw for all frames at once. A
  RecordedNoise in place of the key gives its values.
  """
  if _recorded(key):
    recorded = getattr(key.values, "shape", None)
    if recorded != tuple(shape):
      raise ValueError(
        f"The recorded noise is {recorded} and the step draws {tuple(shape)}; record "
        "[S, B, T, H, W, C] for a sampler of S steps."
      )
    return key.values
  batch, num_frames, *rest = shape
  index = first_frame + jnp.arange(num_frames)
  by_frame = jax.vmap(lambda i: keys.fold_in(key, i))(index)
  draw = lambda k: keys.normal(k, (batch, *rest))
  return jax.vmap(draw, out_axes=1)(by_frame)


def _recorded(key):
  return isinstance(key, RecordedNoise)
