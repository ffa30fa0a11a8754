"""Methods for long videos, ranked exactly: 64 frames from a denoiser of 16.

python -m vdm_jax.main --config=experiments/exact_long_video/config.py \
  --workdir=runs/exact_long_video

The videos are Gaussian processes, of which the best denoiser of any window is known;
what a method gets wrong is the method's fault. To rank another one, add it to
`cfg.methods`.
"""

from ml_collections import ConfigDict

from vdm_jax import config as c
from vdm_jax.diffusion import denoise, long_video, process, schedules, times
from vdm_jax.diffusion.samplers import euler, heun
from vdm_jax.oracle import gaussian
from vdm_jax.oracle import rank as oracle_rank
from vdm_jax.studies import rank


def get_config(arg="full"):
  """`arg`: "full", or "tiny": fewer steps and two methods, to see it work."""
  c.check_variant("exact_long_video", arg, ("full", "tiny"))
  cfg = ConfigDict()
  cfg.seed = 0
  cfg.mesh = dict(data=-1)
  cfg.rules = ()
  cfg.stages = ("rank",)
  steps = 4 if arg == "tiny" else 64

  moving = c.call(
    gaussian.GaussianVideo, kernel=c.bind(gaussian.ornstein_uhlenbeck, correlation=0.9)
  )
  kernels = (
    c.bind(gaussian.ornstein_uhlenbeck, correlation=0.9, variance=0.7),
    c.bind(gaussian.constant, variance=0.3),
  )
  scene = c.call(
    gaussian.GaussianVideo, kernel=c.bind(gaussian.kernel_sum, kernels=kernels)
  )

  base = c.bind(euler.euler)
  uniform = c.bind(denoise.uniform_weights)
  triangular = c.bind(denoise.windows, size=16, stride=4)
  rollout = lambda **kwargs: c.bind(long_video.rollout, sampler=base, **kwargs)
  extend = lambda overlap: c.bind(long_video.extension_plan, window=16, overlap=overlap)
  replace = c.bind(denoise.replace_known)
  method = lambda **kwargs: c.call(oracle_rank.LongVideoMethod, **kwargs)
  methods = {
    "the whole video at once": method(sampler=base),
    "the whole video, Heun": method(sampler=c.bind(heun.heun)),
    "independent chunks": method(
      sampler=base,
      wrappers=(c.bind(denoise.windows, size=16, stride=16, weights=uniform),),
      seams=(16, 16),
    ),
    "windows, uniform": method(
      sampler=base,
      wrappers=(c.bind(denoise.windows, size=16, stride=8, weights=uniform),),
      seams=(8, 8),
    ),
    "windows, triangular": method(sampler=base, wrappers=(triangular,), seams=(4, 4)),
    "FreeNoise": method(
      sampler=base,
      wrappers=(triangular,),
      initial_noise=c.bind(oracle_rank.reorder_as_free_noise, window=16, stride=4),
      seams=(4, 4),
    ),
    "replacement, new noise": method(
      sampler=rollout(plan=extend(8), known_wrapper=replace, renoise_known=True),
      seams=(16, 8),
      draws=7,
    ),
    "replacement, own noise": method(
      sampler=rollout(plan=extend(8), known_wrapper=replace), seams=(16, 8)
    ),
    "extension, 8 given": method(sampler=rollout(plan=extend(8)), seams=(16, 8)),
    "extension, 12 given": method(sampler=rollout(plan=extend(12)), seams=(16, 4)),
    "extension, first 4 and last 8": method(
      sampler=rollout(
        plan=c.bind(long_video.first_and_recent_plan, window=16, first=4, recent=8)
      ),
      seams=(16, 4),
    ),
    "extension, 12 ever farther": method(
      sampler=rollout(plan=c.bind(long_video.sparse_past_plan, window=16, context=12)),
      seams=(16, 4),
    ),
    "FIFO": method(
      sampler=base,
      schedule=c.bind(schedules.fifo),
      wrappers=(c.bind(denoise.fifo_windows, window=16, in_flight=steps),),
      margin=steps,
    ),
    "FIFO, look-ahead": method(
      sampler=base,
      schedule=c.bind(schedules.fifo),
      wrappers=(
        c.bind(denoise.fifo_windows, window=16, in_flight=steps, look_ahead=True),
      ),
      margin=steps,
    ),
    "hierarchical": method(
      sampler=rollout(plan=c.bind(long_video.hierarchical_plan, window=16, stride=8)),
      seams=(8, 8),
    ),
    "causal, same level": method(
      sampler=base, denoiser=c.bind(oracle_rank.causal_denoiser)
    ),
    "causal, frame by frame": method(
      sampler=base,
      denoiser=c.bind(oracle_rank.causal_denoiser),
      schedule=c.bind(schedules.autoregressive),
    ),
  }
  if arg == "tiny":
    kept = ("the whole video at once", "independent chunks", "extension, 8 given")
    methods = {name: methods[name] for name in kept}
  cfg.rank = c.bind(
    rank.run,
    worlds={"motion alone": moving, "motion and a scene": scene},
    methods=methods,
    process=c.call(process.Flow),
    grid=c.bind(times.uniform_grid, num_steps=steps),
  )
  return cfg
