"""The one loop that every sampler shares, and the noise that they draw.

Nothing of the trajectory is kept. A denoiser with a memory would give the scan here
its carry, and nowhere else.
"""

import jax
import jax.numpy as jnp
from einops import repeat

from vdm_jax.diffusion import process as p


def run(step, x, ts, key):
  """Folds `step(x, t, t_next, key) -> x` over a falling grid of times.

  Frames whose time does not change in a step are left as they are, to the bit.

  Args:
    step: x [B, T, H, W, C], t and t_next [B, T], key of this step.
    x: [B, T, H, W, C] the start, usually sigma(ts[0]) times noise.
    ts: [S + 1] one time for all frames, or [S + 1, T] one for each.
    key: PRNG key; each step folds its index into it.

  Returns:
    x after the last step.
  """
  batch, num_frames = x.shape[:2]
  ts = rows(ts, num_frames)
  ts = repeat(ts, "s t -> s b t", b=batch)

  def body(x, inputs):
    t, t_next, i = inputs
    stepped = step(x, t, t_next, jax.random.fold_in(key, i))
    return jnp.where(p.expand(t == t_next), x, stepped), None

  x, _ = jax.lax.scan(body, x, (ts[:-1], ts[1:], jnp.arange(len(ts) - 1)))
  return x


def rows(ts, num_frames):
  """A grid [S + 1] or a matrix [S + 1, T] as a float32 matrix."""
  ts = jnp.asarray(ts, jnp.float32)
  if ts.ndim not in (1, 2) or len(ts) < 2 or ts.shape[1:] not in ((), (num_frames,)):
    raise ValueError(
      f"ts {ts.shape}; expected [S + 1], or [S + 1, T] with T = {num_frames}, S >= 1."
    )
  return jnp.broadcast_to(ts.reshape(len(ts), -1), (len(ts), num_frames))


def noise(key, shape, start=0):
  """Standard normal [B, T, H, W, C]; frame i comes from `key` and start + i alone.

  A long video's noise, cut anywhere, is therefore the noise of the parts. This needs
  a threefry key, jax's default: under vmap, "rbg" keys draw for all frames at once.
  """
  batch, num_frames, *rest = shape
  keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(start + jnp.arange(num_frames))
  draw = lambda k: jax.random.normal(k, (batch, *rest))
  return jax.vmap(draw, out_axes=1)(keys)
