"""What a step cache saves and what it costs: time and PSNR to the uncached sample.

Every setting samples the same noise. Times are medians over rounds, in each of which
every setting has its turn.
"""

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vdm_jax import log
from vdm_jax.aot import flops
from vdm_jax.diffusion import denoise as d
from vdm_jax.metrics import frames
from vdm_jax.programs import job as job_lib
from vdm_jax.studies import compare

PLAIN = "no cache"


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchmarkCase:
  """A model to sample, and the plans of a step cache to sample it with.

  Attributes:
    generator: tasks.generator.Generator. PSNR is of decoded videos; without an
      autoencoder, of latents, the peak being the range of the uncached ones.
    signals: () -> {name: array [N, ...]}, the conditions of N videos.
    plans: {setting: plan}; a plan, such as a bound diffusion.caching.mag_cache, is
      times [calls] -> [CacheMode], what each call of the network re-uses and keeps.
    judge: (videos, uncached videos, labels, mask) -> {name: number}, of uint8 videos
      [N, T, H, W, 3]; None: only PSNR.
  """

  generator: Any
  signals: Callable
  plans: dict[str, Callable]
  judge: Callable | None = None


@dataclasses.dataclass
class MeasuredSampler:
  """A compiled sampler, with or without a step cache, and its measurements.

  Attributes:
    program: (params, batch, key) -> latents, compiled.
    flops: of the program.
    cache_bytes: that the step cache keeps.
    seconds: of each measured call.
  """

  program: Callable
  flops: int
  cache_bytes: int
  seconds: list = dataclasses.field(default_factory=list)


def measure_step_caches(job, *, cases, rounds=7, folder="step_caching"):
  """Measures the speed and quality of every step-cache plan of every case.

  Writes <workdir>/<folder>: scores.json, table.md and trade_off.png.

  Args:
    job: programs.job.Job: workdir, seed, mesh.
    cases: {name: BenchmarkCase}.
    rounds: measured calls of each setting.
  """
  out, scores = job.workdir / folder, {}
  for name, case in cases.items():
    scores[name] = measure_case(job, case, rounds)
    job_lib.write_json(out / "scores.json", scores)
    tables = ["\n".join(markdown_table(*item)) + "\n" for item in scores.items()]
    (out / "table.md").write_text("\n".join(tables))
    plot_trade_off(out / "trade_off.png", scores)
    job.print("\n" + "\n".join(markdown_table(name, scores[name])))
  job.print(f"{out}: scores.json, table.md and trade_off.png")


def measure_case(job, case, rounds):
  """{setting: scores} of a BenchmarkCase; the uncached setting is "no cache".

  Scores are "speed-up", "of operations" (the ratio of FLOPs), "psnr (dB)", "seconds",
  "remembered (MB)", "all seconds" (a list), and the numbers of the case's judge.

  Args:
    job: programs.job.Job: seed, mesh.
    rounds: measured calls of each setting.
  """
  rows = {k: np.asarray(v) for k, v in case.signals().items()}
  with job.use_mesh():
    params, batch = case.generator.load(job), job.put_batch(rows)
    decode, settings, made = _decoder(case.generator), {}, {}
    for name, plan in ({PLAIN: None} | dict(case.plans)).items():
      settings[name] = _setting(case, plan, params, batch, job.key())
      latents = settings[name].program(params, batch, job.key())
      made[name] = np.asarray(decode(params, latents))
      job.print(f"{name}: compiled")
    for _ in range(rounds):
      for setting in settings.values():
        start = time.perf_counter()
        jax.block_until_ready(setting.program(params, batch, job.key()))
        setting.seconds.append(time.perf_counter() - start)
  plain = settings[PLAIN]
  peak = frames.PEAK if case.generator.autoencoder else float(np.ptp(made[PLAIN]))
  scores = {}
  for name, setting in settings.items():
    seconds = float(np.median(setting.seconds))
    scores[name] = {
      "speed-up": float(np.median(plain.seconds)) / seconds,
      "of operations": plain.flops / setting.flops,
      "psnr (dB)": float(
        frames.psnr_per_video(made[name], made[PLAIN], peak=peak).mean()
      ),
      "seconds": seconds,
      "remembered (MB)": setting.cache_bytes / 1e6,
      "all seconds": setting.seconds,
    }
    if case.judge is not None:
      mask = np.zeros(made[name].shape[1], bool)
      judged = case.judge(made[name], made[PLAIN], rows.get("label"), mask)
      numbers = {k: v for k, v in judged.items() if np.ndim(v) == 0}
      scores[name] |= {k: v for k, v in numbers.items() if k not in scores[name]}
  return scores


def _setting(case, plan, params, batch, key):
  """The compiled MeasuredSampler of a plan; None is no cache."""
  cached, sizes = (), {}
  if plan is not None:
    watch = lambda call, old, new: sizes.update({k: x.nbytes for k, x in old.items()})
    cached = (functools.partial(d.cached, plan=plan, on_update=watch),)
  wrappers = (*cached, *case.generator.wrappers)
  draw = dataclasses.replace(case.generator, wrappers=wrappers).latents
  operations = flops.flop_count_of_call(draw, params, batch, key).flops
  program = jax.jit(draw).lower(params, batch, key).compile()
  return MeasuredSampler(program, operations, sum(sizes.values()))


def _decoder(generator):
  """(params, latents) -> uint8 videos, or the latents where nothing decodes them."""
  if generator.autoencoder is None:
    return lambda params, latents: latents
  return jax.jit(generator.decode)


def random_nonzero_params(*, task, signals, shape, seed=0, scale=0.1):
  """Untrained parameters, numpy arrays, with noise for zeros, so that no gate is shut.

  Args:
    task: its `init` makes the parameters.
    signals: () -> {name: array [N, ...]}, the conditions of N videos.
    shape: [T, h, w, c] of latents.
    scale: standard deviation of the noise.
  """
  rows = {k: np.asarray(v)[:1] for k, v in signals().items()}
  batch = {**rows, "latents": np.zeros((1, *shape), np.float32)}
  return jax.device_get(_nonzero_params(task.init, batch, jax.random.key(seed), scale))


@functools.partial(jax.jit, static_argnums=0)
def _nonzero_params(init, batch, key, scale):
  k_init, k_fill = jax.random.split(key)
  leaves, tree = jax.tree.flatten(nn.meta.unbox(init(k_init, batch)))
  noise = lambda i, x: jax.random.normal(jax.random.fold_in(k_fill, i), x.shape)
  filled = [jnp.where(x == 0, scale * noise(i, x), x) for i, x in enumerate(leaves)]
  return jax.tree.unflatten(tree, filled)


def markdown_table(name, scores):
  """Lines of a Markdown table of {setting: {score: number}}, by the FLOPs saved."""
  columns = [k for k in next(iter(scores.values())) if k != "all seconds"]
  rows = dict(sorted(scores.items(), key=lambda x: x[1]["of operations"]))
  return [f"**{name}**", "", *compare.markdown_table(rows, columns, "plan")]


def plot_trade_off(path, scores):
  """Saves a plot of PSNR over speed-up, from {case: {setting: {score: number}}}."""
  size = (5.2 * len(scores), 4.2)
  with log.plot_panels(path, len(scores), size) as axes:
    for ax, (name, rows) in zip(axes, scores.items(), strict=True):
      for setting, row in rows.items():
        if setting == PLAIN:
          continue
        x, ideal, y = row["speed-up"], row["of operations"], row["psnr (dB)"]
        color = ax.plot([x], [y], "o")[0].get_color()
        ax.plot([ideal], [y], "o", color=color, fillstyle="none")
        ax.plot([x, ideal], [y, y], "-", color=color, linewidth=0.8)
        ax.annotate(setting, (x, y), (4, 4), textcoords="offset points", fontsize=7)
      ax.axvline(1.0, color="black", linewidth=0.6)
      ax.set(title=name, xlabel="speed-up (hollow: by operations)")
      ax.set_ylabel("PSNR to the uncached sample (dB)")
      ax.grid(alpha=0.3)
