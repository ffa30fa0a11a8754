"""Long videos in passes: each fills in between the frames that the one before left.

  LVDM              few frames, one window after another; then all between them
  AlignYourLatents  T key frames at once, then 4 T, then 16 T

https://arxiv.org/abs/2211.13221 section 3.3, https://arxiv.org/abs/2304.08818
section 3.2. A pass has a sampler, `long_video.rollout` of a plan if it takes windows.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vdm_jax.programs import sample


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


def run(
  job,
  *,
  generator,
  passes,
  signals,
  batch_size=50,
  folder="long",
  fps=8,
  scale=1,
  grid_columns=8,
):
  """Samples videos in several passes and writes the last pass to <workdir>/<folder>.

  The folder has an mp4 for each video, grid.gif, grid.png, videos.npz and meta.json.

  Args:
    job: programs.job.Job: workdir, seed, mesh.
    generator: tasks.generator.Generator; each pass replaces its number of frames,
      sampler, times and wrappers.
    passes: [Pass], or {name: Pass} in the order of the names.
    signals: () -> {name: array [N, ...]}, the conditions of N videos.
    batch_size: videos at a time, rounded up to what the mesh splits evenly.
    fps, scale: frames a second and integer enlargement of the files.
    grid_columns: videos in a row of the grids; of each class, if there are labels.
  """
  if isinstance(passes, Mapping):
    passes = [passes[name] for name in sorted(passes)]
  check_passes(passes)
  parts = [generator_for_pass(generator, chain_pass) for chain_pass in passes]
  params = {
    "autoencoder": job.weights(generator.autoencoder_weights, "ema/autoencoder")
  }
  params |= {f"pass {n}": job.weights(part.weights) for n, part in enumerate(parts)}
  draws = [
    jax.jit(sampler_for_pass(part, chain_pass))
    for part, chain_pass in zip(parts, passes, strict=True)
  ]
  decode = jax.jit(generator.decode)

  def draw(params, batch, key):
    latents = None
    for n, draw_pass in enumerate(draws):
      own = {"denoiser": params[f"pass {n}"]}
      latents = draw_pass(own, batch, latents, jax.random.fold_in(key, n))
    return decode(params, latents)

  lengths = " -> ".join(str(chain_pass.num_frames) for chain_pass in passes)
  job.print(f"videos of {lengths} frames")
  sample.write_samples(
    job,
    draw,
    params,
    signals,
    batch_size=batch_size,
    folder=folder,
    fps=fps,
    scale=scale,
    grid_columns=grid_columns,
  )


def generator_for_pass(generator, chain_pass):
  """The tasks.generator.Generator that samples the latents of one pass.

  Args:
    generator: the Generator of the chain.
    chain_pass: a Pass, whose fields replace those of the generator.
  """
  return dataclasses.replace(
    generator,
    task=chain_pass.task or generator.task,
    weights=chain_pass.weights or generator.weights,
    shape=(chain_pass.num_frames, *generator.shape[1:]),
    sampler=chain_pass.sampler,
    ts=chain_pass.ts,
    wrappers=chain_pass.wrappers,
  )


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


def sampler_for_pass(generator, chain_pass):
  """A function (params, batch, previous, key) -> latents [B, T, h, w, c] of one pass.

  `params` is {"denoiser": tree}, `batch` {name: array [B, ...]}, `previous` the latents
  of the pass before, which are known frames of this one (unused in the first).

  Args:
    generator: the Generator of this pass, what `generator_for_pass` returns.
    chain_pass: the Pass.
  """

  def draw(params, batch, before, key):
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

  return draw
