"""diffusers' scheduler_config.json -> our process, prediction, sampler and grid.

  scheduler = load_scheduler("stable-diffusion/scheduler")
  ts = scheduler.time_grid(num_steps=50)
  noise = scheduler.initial_noise_fn(ts)
  task.sample(..., sampler=scheduler.sampler, ts=ts, noise=noise,
              wrappers=(*guidance, *scheduler.wrappers))

gives the trajectory of the original class, on the same network and noise. The
coordinates of x are the original's too: x / alpha in the Euler family, x elsewhere.
"""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from vdm_jax.diffusion import denoise as d
from vdm_jax.diffusion import process as p
from vdm_jax.diffusion.samplers import ddim, dpm_solver, euler, loop, unipc
from vdm_jax.pretrained import config_json
from vdm_jax.pretrained.schedulers import fields, grids, processes, samplers

FILE = "scheduler_config.json"


@dataclasses.dataclass(frozen=True)
class Scheduler:
  """A published scheduler in the terms of a task's `sample`; holds no arrays.

  Attributes:
    process: the noise schedule; its `network_inputs` give the network the original's
      scaled x and its timestep, rounded as it is there.
    prediction: what the network predicts: "eps", "x0", "v" or "velocity".
    sampler: (denoise, process, x, ts, cond, key) -> x0; of DDIM, `eta` may be bound.
    time_grid: num_steps -> falling times [S + 1], float32; with a dynamic shift also
      mu, and of flows also sigmas, are arguments.
    wrappers: functions (denoise, null) -> denoise, applied outside of guidance.
    init_noise_sigma: ts -> the number by which unit noise is multiplied at the start.
    original: the config as it was read.
  """

  process: Any
  prediction: str
  sampler: Callable
  time_grid: Callable
  wrappers: tuple[Callable, ...] = ()
  init_noise_sigma: Callable = lambda ts: 1.0
  original: Mapping = dataclasses.field(default_factory=dict, repr=False, hash=False)

  def initial_noise_fn(self, ts, draw=loop.noise_by_frame):
    """A function (key, shape) -> initial noise [B, T, H, W, C], for a task's `sample`.

    That multiplies noise by the process' sigma at ts[0], where the original has
    `init_noise_sigma`; the noise here makes up for it.

    Args:
      ts: the grid of times.
      draw: (key, shape) -> unit noise.
    """
    first = np.asarray(ts, np.float32)[:1]
    scale = self.init_noise_sigma(ts) / self.process.alpha_sigma(first)[1]
    return lambda key, shape: scale * draw(key, shape)

  def config(self):
    """The scheduler_config.json that this was read from, a dict."""
    return dict(self.original)


def load_scheduler(source, kind=None):
  """The Scheduler of a scheduler_config.json: process, prediction, sampler and grid.

  Args:
    source: a folder with scheduler_config.json, or with a folder "scheduler" that has
      it; the file; or its dict.
    kind: the scheduler to use in the place of the config's class, with the config's
      betas and prediction: one of KINDS, such as "ddim", or diffusers' class.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: no such class, or all the fields whose values are not supported.
  """
  original = source if isinstance(source, Mapping) else _read(pathlib.Path(source))
  if kind is not None:
    if kind not in (*KINDS, *MAKERS):
      raise ValueError(f"scheduler={kind!r}; there are {', '.join((*KINDS, *MAKERS))}.")
    original = dict(original) | {"_class_name": KINDS.get(kind, kind)}
  config = fields.fill_defaults(original)
  make, grid = MAKERS[config["_class_name"]]
  made = {
    "prediction": fields.PREDICTIONS[config.get("prediction_type", "flow_prediction")],
    "time_grid": functools.partial(grid, config=config),
    "wrappers": _wrappers(_clipping(config)),
  }
  return Scheduler(**made | make(config), original=dict(original))


def save_scheduler(folder, scheduler):
  """Writes a Scheduler's scheduler_config.json, which diffusers opens, to `folder`."""
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  text = json.dumps(scheduler.config(), indent=2, sort_keys=True)
  (folder / FILE).write_text(text + "\n")


def _read(path):
  tried = [path / FILE, path / "scheduler" / FILE] if path.is_dir() else [path]
  for file in tried:
    if file.is_file():
      return config_json.read_json_object(file)
  raise FileNotFoundError(f"No scheduler here: {', '.join(map(str, tried))}.")


def _ddpm(config):
  fraction = {"learned_range": None, "fixed_large": 1.0}.get(config["variance_type"], 0)
  sampler = functools.partial(samplers.ddpm, fraction=fraction)
  return {"process": _table(config), "sampler": sampler}


def _ddim(config):
  return _by_strides(config, functools.partial(samplers.ddim, clip=_clipping(config)))


def _pndm(config):
  return _by_strides(config, samplers.pndm)


def _by_strides(config, sampler):
  """Fields of DDIM's Scheduler, and PNDM's: a step ends a stride before its time."""
  # Index -1 is the data, or it is index 0 (our times 0 and 1).
  end = 0.0 if config["set_alpha_to_one"] else 1.0
  to_next_time = config["timestep_spacing"] == "leading" and (
    config["set_alpha_to_one"] or config["steps_offset"] > 0
  )
  train_steps = None if to_next_time else config["num_train_timesteps"]
  sampler = functools.partial(sampler, train_steps=train_steps, end=end)
  end = end if to_next_time else 0.0
  ts = functools.partial(grids.ddpm_grid, config=config, end=end)
  return dict(process=_table(config), sampler=sampler, time_grid=ts, wrappers=())


def _euler(config):
  prediction = config["prediction_type"]
  if config.get("timestep_type") == "continuous" and prediction == "v_prediction":
    process = p.EDM(t_max=_t_max(config), sigma_data=1.0)
  else:
    by_sigma = grids.is_spaced_by_sigma(config)
    between = by_sigma or config["timestep_spacing"] == "linspace"
    process = processes.SigmaTableProcess(
      grids.increasing_noise_to_signal(config),
      t_max=_t_max(config),
      log_index=by_sigma,
      rounding="none" if between else "nearest",
    )
  # Of unit variance, or the noise alone.
  signal = 1.0 if config["timestep_spacing"] == "leading" else 0.0
  ancestral = config["_class_name"] == fields.ANCESTRAL
  return {
    "process": process,
    "sampler": ddim.euler_ancestral if ancestral else euler.euler,
    "init_noise_sigma": lambda ts: float(np.hypot(np.max(ts), signal)),
  }


def _t_max(config):
  return max(float(grids.noise_to_signal(config)[-1]), config.get("sigma_max") or 0.0)


def _multistep_process(config):
  """The process of DPM-Solver and UniPC."""
  if config["use_flow_sigmas"]:
    return processes.RoundedTimeFlow(scale=float(config["num_train_timesteps"]))
  return processes.SigmaTableProcess(
    grids.increasing_noise_to_signal(config),
    t_max=_t_max(config),
    exploding=False,
    log_index=True,
    rounding="down" if grids.rounds_time_down(config) else "nearest",
  )


def _dpm_solver(config):
  stochastic = config["algorithm_type"] == "sde-dpmsolver++"
  solver = dpm_solver.dpm_solver_sde if stochastic else dpm_solver.dpm_solver
  sampler = functools.partial(
    samplers.dpm_solver,
    solver=functools.partial(
      solver, order=config["solver_order"], rule=config["solver_type"]
    ),
    lower_order_final=config["lower_order_final"],
    final_orders=(1,) if config["euler_at_final"] else (),
  )
  return {"process": _multistep_process(config), "sampler": sampler}


def _unipc(config):
  sampler = functools.partial(
    unipc.unipc,
    order=config["solver_order"],
    kind=config["solver_type"],
    final_orders=(1, 2) if config["lower_order_final"] else (),
  )
  return {"process": _multistep_process(config), "sampler": sampler}


def _flow_match(config):
  process = p.Flow(scale=float(config["num_train_timesteps"]))
  return {"process": process, "sampler": euler.euler}


def _table(config):
  """p.DDPM with the original's alpha_bar."""
  alpha_bar = grids.alpha_bars(config).astype(np.float64)
  # 0 has no logarithm; far below what the process lets alpha be.
  alpha_bar = np.maximum(np.append(1.0, alpha_bar), 1e-14)
  betas = 1.0 - alpha_bar[1:] / alpha_bar[:-1]
  return p.DDPM(num_steps=len(betas), table=tuple(map(float, betas)))


def _clipping(config):
  """x0 -> x0 as the config clips it, or None."""
  if config.get("thresholding"):
    ratio, most = config["dynamic_thresholding_ratio"], config["sample_max_value"]
    return functools.partial(d.dynamic_threshold, ratio=ratio, max_bound=most)
  if config.get("clip_sample"):
    return functools.partial(d.clip_x0, bound=config["clip_sample_range"])
  return None


def _wrappers(clip):
  if clip is None:
    return ()
  return (functools.partial(d.edit_x0, fn=clip, below=jnp.inf),)


KINDS = {
  "ddim": fields.DDIM,
  "ddpm": fields.DDPM,
  "dpm_solver": fields.DPM,
  "euler": fields.EULER,
  "euler_ancestral": fields.ANCESTRAL,
  "pndm": fields.PNDM,
  "unipc": fields.UNIPC,
}
# {class: (config -> fields of its Scheduler, grid of times)}.
MAKERS = {
  fields.DDIM: (_ddim, grids.ddpm_grid),
  fields.DDPM: (_ddpm, grids.ddpm_grid),
  fields.DPM: (_dpm_solver, grids.multistep_grid),
  fields.ANCESTRAL: (_euler, grids.euler_grid),
  fields.EULER: (_euler, grids.euler_grid),
  fields.FLOW: (_flow_match, grids.flow_match_grid),
  fields.PNDM: (_pndm, grids.ddpm_grid),
  fields.UNIPC: (_unipc, grids.multistep_grid),
}
