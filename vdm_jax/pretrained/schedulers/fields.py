"""The fields of diffusers' scheduler_config.json: defaults, and values that we have.

A field that a class does not have is ignored, as in diffusers; configs are full of
those of other classes.
"""

from vdm_jax.pretrained.config_json import require_supported
from vdm_jax.pretrained.schedulers import grids

DDPM, DDIM = "DDPMScheduler", "DDIMScheduler"
EULER, ANCESTRAL = "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler"
DPM, UNIPC = "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"
FLOW, PNDM = "FlowMatchEulerDiscreteScheduler", "PNDMScheduler"

PREDICTIONS = {
  "epsilon": "eps",
  "sample": "x0",
  "v_prediction": "v",
  "flow_prediction": "velocity",
}

_BETAS = {
  "num_train_timesteps": 1000,
  "beta_start": 0.0001,
  "beta_end": 0.02,
  "beta_schedule": "linear",
  "trained_betas": None,
  "rescale_betas_zero_snr": False,
  "prediction_type": "epsilon",
  "steps_offset": 0,
}
_THRESHOLD = {
  "thresholding": False,
  "dynamic_thresholding_ratio": 0.995,
  "sample_max_value": 1.0,
}
_CLIP = {"clip_sample": True, "clip_sample_range": 1.0, **_THRESHOLD}
_SHAPES = {
  "use_karras_sigmas": False,
  "use_exponential_sigmas": False,
  "use_beta_sigmas": False,
  # Read where they are, if only as fields of another class.
  "sigma_min": None,
  "sigma_max": None,
}
_MULTISTEP = {
  **_BETAS,
  **_THRESHOLD,
  **_SHAPES,
  "timestep_spacing": "linspace",
  "final_sigmas_type": "zero",
  "solver_order": 2,
  "lower_order_final": True,
  "use_flow_sigmas": False,
  "flow_shift": 1.0,
  "use_dynamic_shifting": False,
  "time_shift_type": "exponential",
}
DEFAULTS = {
  DDPM: {**_BETAS, **_CLIP, "variance_type": "fixed_small"}
  | {"timestep_spacing": "leading"},
  DDIM: {**_BETAS, **_CLIP, "set_alpha_to_one": True, "timestep_spacing": "leading"},
  EULER: {
    **_BETAS,
    **_SHAPES,
    "timestep_spacing": "linspace",
    "interpolation_type": "linear",
    "timestep_type": "discrete",
    "final_sigmas_type": "zero",
  },
  ANCESTRAL: {**_BETAS, "timestep_spacing": "linspace"},
  DPM: {
    **_MULTISTEP,
    "algorithm_type": "dpmsolver++",
    "solver_type": "midpoint",
    "euler_at_final": False,
    "use_lu_lambdas": False,
    "lambda_min_clipped": -float("inf"),
    "variance_type": None,
  },
  UNIPC: {
    **_MULTISTEP,
    "predict_x0": True,
    "solver_type": "bh2",
    "disable_corrector": [],
    "solver_p": None,
    "shift_terminal": None,
  },
  PNDM: {
    **_BETAS,
    "skip_prk_steps": False,
    "set_alpha_to_one": False,
    "timestep_spacing": "leading",
  },
  FLOW: {
    **_SHAPES,
    "num_train_timesteps": 1000,
    "shift": 1.0,
    "use_dynamic_shifting": False,
    "time_shift_type": "exponential",
    "shift_terminal": None,
    "invert_sigmas": False,
    "stochastic_sampling": False,
  },
}
# Names of other solvers that diffusers replaces by the class's own.
RENAMED = {
  (DPM, "algorithm_type"): {"deis": "dpmsolver++"},
  (DPM, "solver_type"): dict.fromkeys(("logrho", "bh1", "bh2"), "midpoint"),
  (UNIPC, "solver_type"): dict.fromkeys(("midpoint", "heun", "logrho"), "bh2"),
  (EULER, "prediction_type"): {"original_sample": "sample"},
}

_EACH = {
  "prediction_type": ("epsilon", "sample", "v_prediction"),
  "time_shift_type": ("exponential",),
  "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2"),
  "timestep_spacing": ("leading", "trailing", "linspace"),
  "final_sigmas_type": ("zero", "sigma_min"),
  "interpolation_type": ("linear",),
  "timestep_type": ("discrete", "continuous"),
  "predict_x0": (True,),
  "disable_corrector": ([], None),
  "solver_p": (None,),
  "invert_sigmas": (False,),
  "stochastic_sampling": (False,),
  "solver_order": (1, 2, 3),
}
SUPPORTED = {
  PNDM: {"prediction_type": ("epsilon",), "skip_prk_steps": (True,)},
  DDPM: {
    "variance_type": ("fixed_small", "fixed_small_log", "fixed_large", "learned_range"),
  },
  ANCESTRAL: {"prediction_type": ("epsilon", "v_prediction")},
  DPM: {
    "prediction_type": tuple(PREDICTIONS),
    "algorithm_type": ("dpmsolver++", "sde-dpmsolver++"),
    "solver_type": ("midpoint", "heun"),
    "variance_type": (None, "learned", "learned_range"),
  },
  UNIPC: {
    "prediction_type": tuple(PREDICTIONS),
    "solver_type": ("bh1", "bh2"),
  },
  FLOW: {"time_shift_type": ("exponential", "linear")},
}


def fill_defaults(original):
  """A scheduler_config.json dict with the default, in its class, of every absent field.

  Raises:
    ValueError: one that lists all fields whose values are not supported.
  """
  name = original.get("_class_name")
  if name not in DEFAULTS:
    raise ValueError(
      f"The scheduler is a {name}; supported are {', '.join(sorted(DEFAULTS))}."
    )
  absent = original.get("_use_default_values", ())
  given = {k: v for k, v in original.items() if k in DEFAULTS[name] and k not in absent}
  config = {"_class_name": name} | DEFAULTS[name] | given
  if name == PNDM:
    config["rescale_betas_zero_snr"] = False  # the class has no such field
  for field, names in RENAMED.items():
    if field[0] == name:
      config[field[1]] = names.get(config[field[1]], config[field[1]])
  require_supported(
    config, _EACH | SUPPORTED.get(name, {}), name, _problems(name, config)
  )
  return config


def _problems(name, config):
  problems = []
  shapes = [shape for shape in grids.SHAPES if config.get(shape)]
  if len(shapes) > 1:
    problems.append(f"{' and '.join(shapes)}; supported: one of them")
  betas, count = config.get("trained_betas"), config["num_train_timesteps"]
  if betas is not None and len(betas) != count:
    problems.append(
      f"trained_betas, {len(betas)}; supported: num_train_timesteps={count}"
    )
  if name in (DPM, UNIPC):
    problems += _of_multistep(name, config, shapes)
  return problems


def _of_multistep(name, config, shapes):
  """Fields that do not go together."""
  flow, ends = config["use_flow_sigmas"], config["final_sigmas_type"]
  if flow != (config["prediction_type"] == "flow_prediction"):
    prediction = f"prediction_type={config['prediction_type']!r}"
    yield f"{prediction} with use_flow_sigmas={flow}; supported: both of flow, or none"
  if flow and shapes and (name == DPM or shapes != ["use_karras_sigmas"]):
    yield f"use_flow_sigmas with {', '.join(shapes)}; supported: no shape of its own"
  if flow and ends != "zero":
    yield f"use_flow_sigmas with final_sigmas_type={ends!r}; supported: 'zero'"
  if not flow and config.get("shift_terminal") is not None:
    yield "shift_terminal without use_flow_sigmas"
  if name == DPM:
    if config["solver_order"] == 3 and config["algorithm_type"] == "sde-dpmsolver++":
      yield "solver_order=3 with algorithm_type='sde-dpmsolver++'; supported: 1, 2"
    return
  if shapes and ends != "zero":  # the original divides 0 by 0
    yield f"{shapes[0]} with final_sigmas_type={ends!r}; supported: 'zero'"
  if ends == "zero" and not config["lower_order_final"] and config["solver_order"] > 1:
    yield "lower_order_final=False with final_sigmas_type='zero'; supported: True"
