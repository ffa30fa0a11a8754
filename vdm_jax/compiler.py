"""XLA options by platform: `cfg.compiler` is "auto" or a name in PRESETS.

tpu
  A product of sharded weights is not cut into a loop of permutes ("windowed einsum"):
  with fsdp over 16 v5e, Latte-XL/2 then moves 206 GB through a device's HBM in a step
  instead of 550, and needs 0.7 GB less (read from the compiled programs,
  experiments/tpu_scaling). Asynchronous all-to-alls, which MaxDiffusion sets, are not
  set here: on v5e:16x16 they end the compilation of Latte-L/2 with
  "UNIMPLEMENTED: Async all-to-all not supported on limited ICI".
gpu
  Collectives are combined up to 128 MB, moved across iterations of a scan, and hidden
  behind products: https://docs.jax.dev/en/latest/gpu_performance_tips.html.

A compiler's error names an option that it does not know, so that no preset is
silently without effect.
"""

import jax

from vdm_jax import config

PRESETS = {
  "none": {},
  "cpu": {},
  "tpu": {
    "xla_jf_spmd_threshold_for_windowed_einsum_mib": 1_000_000,
    "xla_tpu_overlap_compute_collective_tc": True,
  },
  "gpu": {
    "xla_gpu_enable_latency_hiding_scheduler": True,
    "xla_gpu_enable_pipelined_all_gather": True,
    "xla_gpu_enable_pipelined_reduce_scatter": True,
    "xla_gpu_enable_pipelined_all_reduce": True,
    "xla_gpu_all_gather_combine_threshold_bytes": 2**27,
    "xla_gpu_reduce_scatter_combine_threshold_bytes": 2**27,
    "xla_gpu_all_reduce_combine_threshold_bytes": 2**27,
  },
}


def xla_options(preset, platform=None):
  """XLA's options, {name: value}, for the `compiler_options` of jax.jit.

  Args:
    preset: "none", "cpu", "tpu" or "gpu"; "auto": that of the platform.
    platform: "tpu", "gpu" or "cpu"; JAX's default backend by default.
  """
  if preset == "auto":
    preset = jax.default_backend() if platform is None else platform
  config.check_choice("compiler", preset, ("auto", *PRESETS))
  return dict(PRESETS[preset])
