"""Long videos in passes: each fills in between the frames that the one before left.

  LVDM              few frames, one window after another; then all between them
  AlignYourLatents  T key frames at once, then 4 T, then 16 T

https://arxiv.org/abs/2211.13221 section 3.3, https://arxiv.org/abs/2304.08818
section 3.2. A pass has a sampler, `long_video.rollout` of a plan if it takes windows.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from vdm_jax import keys


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pass:
  """One sampling pass over a video, filling in between the frames of the previous one.

  Attributes:
    num_frames: of this pass, in latent frames.
    sampler: (denoise, process, x, ts, cond, key) -> x0.
    ts: times [S + 1] or [S + 1, T], or process -> times.
    wrappers: (denoise, null) -> denoise, innermost first, such as guidance.
    known_stride: the frames of the pass before are frames 0, known_stride,
      2 known_stride ... of this one; 0 for the first pass.
    signals: {name: number}, conditions of all videos, such as {"fps": 2.0}.
    task: its LatentDiffusion; None: that of the chain.
    weights: of its denoiser, a stage's folder or a nested dict; None: the chain's.
  """

  num_frames: int
  sampler: Callable
  ts: Any
  wrappers: tuple = ()
  known_stride: int = 0
  signals: Mapping[str, float] = dataclasses.field(default_factory=dict)
  task: Any = None
  weights: Any = None


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Chain:
  """A video model that samples in several passes, in the place of a Generator.

  Attributes:
    generator: tasks.generator.Generator; each pass replaces its number of frames,
      sampler, times and wrappers.
    passes: [Pass], or {name: Pass} in the order of the names.
  """

  generator: Any
  passes: Any

  def __post_init__(self):
    check_passes([chain_pass for chain_pass, _ in self._parts()])

  def load(self, job):
    """The EMA parameters {"autoencoder", "pass 0" ...} on a programs.job.Job's mesh."""
    parts, decoder = self._parts(), self.generator.autoencoder_weights
    lengths = " -> ".join(str(chain_pass.num_frames) for chain_pass, _ in parts)
    job.print(f"videos of {lengths} frames")
    own = {f"pass {n}": job.weights(part.weights) for n, (_, part) in enumerate(parts)}
    return {"autoencoder": job.weights(decoder, "ema/autoencoder")} | own

  def videos_and_finite(self, params, batch, key):
    """(videos, finite), sampled for a batch of signals {name: [B, ...]}.

    Videos are uint8 [B, T, H, W, 3], `finite` as Generator.videos_and_finite has it.
    """
    latents = None
    for n, (chain_pass, part) in enumerate(self._parts()):
      own, k_pass = {"denoiser": params[f"pass {n}"]}, keys.fold_in(key, n)
      latents = _sample(chain_pass, part, own, batch, latents, k_pass)
    return self.generator.decode_and_finite(params, latents)

  def _parts(self):
    """[(Pass, the Generator of its latents)]."""
    passes, generator = self.passes, self.generator
    if isinstance(passes, Mapping):
      passes = [passes[name] for name in sorted(passes)]
    return [
      (
        chain_pass,
        dataclasses.replace(
          generator,
          task=chain_pass.task or generator.task,
          weights=chain_pass.weights or generator.weights,
          shape=(chain_pass.num_frames, *generator.shape[1:]),
          sampler=chain_pass.sampler,
          ts=chain_pass.ts,
          wrappers=chain_pass.wrappers,
        ),
      )
      for chain_pass in passes
    ]


def check_passes(passes):
  """Raises a ValueError if one of [Pass] needs more frames than the pass before has."""
  if not passes:
    raise ValueError("passes are empty; give at least one Pass.")
  before = 0
  for n, chain_pass in enumerate(passes):
    frames, stride = chain_pass.num_frames, chain_pass.known_stride
    if (stride > 0) != (n > 0):
      raise ValueError(
        f"Pass {n} has known_stride={stride}; the first pass has 0, and each other one "
        "says at which of its frames those of the pass before stand."
      )
    needed = len(range(0, frames, stride)) if n else 0
    if needed > before:
      raise ValueError(
        f"Pass {n} of {frames} frames, known_stride={stride}, needs {needed} "
        f"frames of the pass before, which has {before}."
      )
    before = frames


def _sample(chain_pass, generator, params, batch, before, key):
  """Latents [B, T, h, w, c] of a Pass; those of the pass before are known frames."""
  count = len(next(iter(batch.values())))
  signals = {k: np.full(count, v, np.float32) for k, v in chain_pass.signals.items()}
  given = {}
  if chain_pass.known_stride:
    positions = np.arange(0, chain_pass.num_frames, chain_pass.known_stride)
    known = jnp.zeros((count, *generator.shape))
    known = known.at[:, positions].set(before[:, : len(positions)])
    mask = np.isin(np.arange(chain_pass.num_frames), positions)
    given = dict(known=known, mask=mask)
  return generator.latents(params, batch | signals, key, **given)
