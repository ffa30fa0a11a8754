"""Trajectories of schedulers on a small network and recorded noise: ours, and configs.

The originals' come from diffusers in the complete suite, and from
golden/schedulers.npz in the quick one.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from vdm_jax.diffusion import denoise as d
from vdm_jax.diffusion.samplers import loop
from vdm_jax.pretrained.schedulers import fields, schedulers

B, T, H, W, C = 2, 3, 2, 5, 3
SHAPE = (B, T, H, W, C)
RNG = np.random.default_rng(0)
# Frequencies as high as those of a network's own embedding of time.
FREQUENCIES = np.float32([1.0, 0.1, 0.01, 0.002])
MIX = (0.6 * RNG.standard_normal((C, 2 * C))).astype(np.float32)
SHIFT = (0.5 * RNG.standard_normal((4, 2 * C))).astype(np.float32)
TOLERANCE = 1e-4  # of max|ref|, at every step of the trajectory


def network(x, time, lib, channels):
  """[..., channels] of x [..., C] and one time; non-linear, and it hears the time."""
  waves = lib.cos(time * lib.asarray(FREQUENCIES))
  hidden = x @ lib.asarray(MIX) + waves @ lib.asarray(SHIFT)
  return lib.tanh(hidden)[..., :channels]


def noises(num_steps):
  """(start, [S, ...]) standard normal."""
  rng = np.random.default_rng(1)
  draw = lambda *n: rng.standard_normal((*n, *SHAPE)).astype(np.float32)
  return draw(), draw(num_steps)


def channels_of(config):
  return 2 * C if config.get("variance_type") == "learned_range" else C


def ours(config, num_steps, eta=0.0, **grid):
  """([x before each step .., x], times), those that each call of our network sees."""
  path, times = [], []
  scheduler, channels = schedulers.load_scheduler(config), channels_of(config)
  start, noise = noises(num_steps)
  ts = scheduler.time_grid(num_steps, **grid)
  sampler = functools.partial(scheduler.sampler, eta=eta) if eta else scheduler.sampler

  def apply(x, t, cond):
    jax.debug.callback(lambda t: times.append(np.asarray(t)), t, ordered=True)
    return network(x, t[0, 0], jnp, channels)

  def denoise(x, t, cond):
    jax.debug.callback(lambda x: path.append(np.asarray(x)), x, ordered=True)
    return d.from_network(apply, scheduler.process, scheduler.prediction)(x, t, cond)

  denoise = d.apply_wrappers(denoise, scheduler.wrappers, None)

  @jax.jit
  def run(x, noise):
    key = loop.RecordedNoise(noise)
    return sampler(denoise, scheduler.process, x, ts, None, key)

  with jax.default_matmul_precision("highest"):
    x = np.asarray(run(scheduler.init_noise_sigma(ts) * start, noise))
  jax.effects_barrier()
  return [*path, x], np.asarray([t[0, 0] for t in times])


def errors(config, theirs, times, num_steps, **options):
  """(max|difference| / max|ref| of the worst state, max|difference| of the times).

  Args:
    config: of our scheduler.
    theirs: {index into the path: state} of the original.
    times: those that its network saw.
    num_steps, options: of both.
  """
  path, seen = ours(config, num_steps, **options)
  assert len(path) == max(theirs) + 1
  assert all(np.isfinite(x).all() for x in theirs.values())
  each = [np.abs(path[i] - x).max() / np.abs(x).max() for i, x in theirs.items()]
  return max(each), np.abs(seen - times).max()


def pick(rng, *options):
  return options[rng.integers(len(options))]


def betas(rng):
  """Fields of a table of betas, and what the network predicts."""
  count = int(pick(rng, 1000, 1000, 700))
  schedule = pick(rng, "linear", "scaled_linear", "squaredcos_cap_v2", "trained")
  config = {
    "num_train_timesteps": count,
    "prediction_type": pick(rng, "epsilon", "v_prediction", "sample"),
    "timestep_spacing": pick(rng, "leading", "trailing", "linspace"),
    "steps_offset": int(pick(rng, 0, 1, 3)),
  }
  if schedule == "trained":
    config["trained_betas"] = np.sort(rng.uniform(2e-4, 0.02, count)).tolist()
  else:
    config |= {
      "beta_schedule": schedule,
      "beta_start": float(rng.uniform(1e-4, 2e-3)),
      "beta_end": float(rng.uniform(0.01, 0.025)),
    }
    if config["prediction_type"] != "epsilon":  # nothing is left to divide by
      config["rescale_betas_zero_snr"] = bool(pick(rng, True, False))
  return config


def clipping(rng):
  return pick(
    rng,
    {"clip_sample": False},
    {"clip_sample": True, "clip_sample_range": float(rng.uniform(0.7, 2.0))},
    {"thresholding": True, "sample_max_value": float(rng.uniform(1.0, 3.0))}
    | {"dynamic_thresholding_ratio": float(rng.uniform(0.8, 0.995))},
  )


def ddpm(rng):
  kinds = ("fixed_small", "fixed_small_log", "fixed_large", "learned_range")
  return {**betas(rng), **clipping(rng), "variance_type": pick(rng, *kinds)}, {}


def ddim(rng):
  config = {**betas(rng), **clipping(rng), "set_alpha_to_one": pick(rng, True, False)}
  return config, {"eta": float(pick(rng, 0.0, 0.5, 1.0))}


def shape(rng, *more):
  """Fields of a grid of sigmas; none, Karras', or another."""
  names = (None, "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")
  name = pick(rng, *names, *more)
  return {} if name is None else {name: True, "rescale_betas_zero_snr": False}


def euler(rng):
  config = {**betas(rng), **shape(rng)}
  config["timestep_type"] = pick(rng, "discrete", "continuous")
  config["final_sigmas_type"] = pick(rng, "zero", "sigma_min")
  if len(config) % 2:
    config |= {"sigma_min": 0.02, "sigma_max": float(rng.uniform(20, 100))}
  return config, {}


def ancestral(rng):
  config = betas(rng)
  if config["prediction_type"] == "sample":
    config["prediction_type"] = "v_prediction"
  return config, {}


def multistep(rng):
  config = {**betas(rng), "solver_order": int(rng.integers(1, 4))}
  config["thresholding"] = bool(pick(rng, True, False, False))
  if rng.integers(4) == 0:
    config |= {"use_flow_sigmas": True, "flow_shift": float(rng.uniform(1.0, 6.0))}
    config |= {"prediction_type": "flow_prediction", "rescale_betas_zero_snr": False}
  return config


def dpm_solver(rng):
  config = multistep(rng)
  if "use_flow_sigmas" not in config:
    config |= shape(rng, "use_lu_lambdas")
    if len(config) % 2 and config["timestep_spacing"] != "trailing":
      config["lambda_min_clipped"] = -5.1
  if config["solver_order"] < 3:
    config["algorithm_type"] = pick(rng, "dpmsolver++", "sde-dpmsolver++")
  config["euler_at_final"] = pick(rng, True, False)
  config["lower_order_final"] = pick(rng, True, False)
  config["solver_type"] = pick(rng, "midpoint", "heun")
  if not any(k[:4] == "use_" for k in config) and rng.integers(2):
    config["final_sigmas_type"] = "sigma_min"
  return config, {}


def unipc(rng):
  config = multistep(rng)
  if "use_flow_sigmas" in config:
    config |= pick(rng, {}, {"use_karras_sigmas": True})
    return config, {}
  config |= shape(rng)
  if (
    not any(k[:4] == "use_" for k in config)
    and config["timestep_spacing"] != "linspace"
  ):
    config["final_sigmas_type"] = "sigma_min"
    config["solver_type"] = pick(rng, "bh1", "bh2")  # to 0, theirs of bh1 is no number
    config["lower_order_final"] = pick(rng, True, False)
  return config, {}


def flow_match(rng):
  config = {"num_train_timesteps": int(pick(rng, 1000, 400)), **shape(rng)}
  options = {}
  if pick(rng, True, False):
    kind = pick(rng, "exponential", "linear")
    config |= {"use_dynamic_shifting": True, "time_shift_type": kind}
    options["mu"] = float(rng.uniform(0.4, 2.0))
  else:
    config["shift"] = float(rng.uniform(0.7, 6.0))
  config["shift_terminal"] = pick(rng, None, 0.1)
  config.pop("rescale_betas_zero_snr", None)
  return config, options


def pndm(rng):
  config = betas(rng) | {"prediction_type": "epsilon", "skip_prk_steps": True}
  config["set_alpha_to_one"] = bool(pick(rng, True, False))
  config["timestep_spacing"] = pick(rng, "leading", "trailing")
  config.pop("rescale_betas_zero_snr", None)
  return config, {}


DRAWN = {
  fields.DDPM: ddpm,
  fields.DDIM: ddim,
  fields.EULER: euler,
  fields.ANCESTRAL: ancestral,
  fields.DPM: dpm_solver,
  fields.UNIPC: unipc,
  fields.FLOW: flow_match,
  fields.PNDM: pndm,
}


SD = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
FLOWS = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
# As published, the fields of other classes left out: (config, steps) and options.
PUBLISHED = {
  "Latte, DDPM": (
    {"_class_name": fields.DDPM, "variance_type": "learned_range"}
    | {"timestep_spacing": "linspace", "clip_sample": False},
    50,
  ),
  "ModelScope, DDIM": (
    {"_class_name": fields.DDIM, **SD, "clip_sample": False}
    | {"set_alpha_to_one": False, "steps_offset": 1},
    50,
  ),
  "Stable Diffusion 1, PNDM": (
    {"_class_name": fields.PNDM, **SD, "skip_prk_steps": True, "steps_offset": 1}
    | {"set_alpha_to_one": False},
    50,
  ),
  "AnimateDiff, linspace": (
    {"_class_name": fields.DDIM, **SD, "beta_schedule": "linear", "steps_offset": 1}
    | {"clip_sample": False, "timestep_spacing": "linspace"},
    25,
  ),
  "zero terminal SNR": (
    {"_class_name": fields.DDIM, **SD, "clip_sample": False}
    | {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    | {"timestep_spacing": "trailing", "set_alpha_to_one": False},
    30,
  ),
  "SVD": (
    {"_class_name": fields.EULER, **SD, "prediction_type": "v_prediction"}
    | {"use_karras_sigmas": True, "sigma_min": 0.002, "sigma_max": 700.0}
    | {"timestep_spacing": "leading", "timestep_type": "continuous", "steps_offset": 1},
    25,
  ),
  "SDXL": (
    {"_class_name": fields.EULER, **SD, "timestep_spacing": "leading"}
    | {"steps_offset": 1},
    50,
  ),
  "PixArt": ({"_class_name": fields.DPM}, 20),
  "DPM++ 2M SDE Karras": (
    {"_class_name": fields.DPM, **SD, "algorithm_type": "sde-dpmsolver++"}
    | {"use_karras_sigmas": True},
    25,
  ),
  "Karras after zero terminal SNR": (
    {"_class_name": fields.DPM, **SD, "prediction_type": "v_prediction"}
    | {"use_karras_sigmas": True, "rescale_betas_zero_snr": True},
    20,
  ),
  "first indices that repeat": (
    {"_class_name": fields.DPM, "beta_schedule": "squaredcos_cap_v2"}
    | {"use_karras_sigmas": True, "lambda_min_clipped": -5.1},
    20,
  ),
  "dynamic flow": (
    {"_class_name": fields.DPM, **FLOWS, "use_dynamic_shifting": True},
    20,
    {"mu": 1.1},
  ),
  "Wan": ({"_class_name": fields.UNIPC, **FLOWS, "flow_shift": 3.0}, 50),
  "Wan, sigmas of the caller": (
    {"_class_name": fields.UNIPC, **FLOWS, "use_dynamic_shifting": True}
    | {"shift_terminal": 0.1},
    20,
    {"mu": 1.1, "sigmas": np.linspace(0.98, 0.05, 20)},
  ),
  "Flux": (
    {"_class_name": fields.FLOW, "use_dynamic_shifting": True, "shift": 3.0},
    20,
    {"mu": 0.8, "sigmas": np.linspace(1.0, 1 / 20, 20)},
  ),
  "HunyuanVideo": (
    {"_class_name": fields.FLOW, "shift": 7.0},
    20,
    {"sigmas": np.linspace(1.0, 0.0, 21)[:-1]},
  ),
}
# float32 itself is no better here: sums that cancel in the original's third order, and
# x in units of sigma, which starts at 20000. Against the original in float64 ours is
# within 1e-5 of the first.
ROUGH = 1e-3


def tolerance(config):
  exploding = config["_class_name"] in (fields.EULER, fields.ANCESTRAL)
  far = exploding and config.get("beta_schedule") == "squaredcos_cap_v2"
  third = config["_class_name"] == fields.UNIPC and config.get("solver_order") == 3
  return ROUGH if far or third else TOLERANCE


def drawn(name, seed):
  """(config, number of steps, options) of a class, drawn over its fields."""
  rng = np.random.default_rng([2, seed])
  config, options = DRAWN[name](rng)
  config["_class_name"] = name
  steps = int(rng.integers(20, 31)) if seed else 12  # below 15, orders fall
  return config, steps, options


def recorded_cases():
  """{name: (config, number of steps, options)} of golden/schedulers.npz."""
  published = {name: (*case, {})[:3] for name, case in PUBLISHED.items()}
  return published | {name: drawn(name, 0) for name in DRAWN}


def kept(config, num_steps):
  """Indices into the path, a state for each call and the last, that are recorded."""
  calls = num_steps + (config["_class_name"] == fields.PNDM)  # its first step has two
  return [calls * i // 4 for i in (1, 2, 3, 4)]


# One config of every class.
EVERY = {
  fields.DDPM: {**SD, "variance_type": "fixed_large", "timestep_spacing": "trailing"},
  fields.DDIM: {**SD, "steps_offset": 1, "set_alpha_to_one": False},
  fields.EULER: {**SD, "timestep_spacing": "leading", "steps_offset": 1},
  fields.ANCESTRAL: SD,
  fields.DPM: {**SD, "use_karras_sigmas": True, "algorithm_type": "sde-dpmsolver++"},
  fields.UNIPC: {**SD, "solver_order": 3},
  fields.FLOW: {"shift": 3.0},
}
