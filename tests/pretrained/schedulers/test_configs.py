"""Configs of schedulers are opened, refused and written."""

import copy
import json

import numpy as np
import pytest

from tests.support.published import trajectories
from vdm_jax.diffusion import process as p
from vdm_jax.pretrained.schedulers import fields, schedulers

SD, EVERY = trajectories.SD, trajectories.EVERY


@pytest.mark.parametrize("name", EVERY)
def test_a_config_is_opened_from_where_it_stands_and_written_back(name, tmp_path):
  config = {"_class_name": name, **EVERY[name]}
  schedulers.save_scheduler(tmp_path / "scheduler", schedulers.load_scheduler(config))
  file = tmp_path / "scheduler" / "scheduler_config.json"
  found = json.loads(file.read_text())
  assert config.items() <= found.items()
  opened = [schedulers.load_scheduler(x) for x in (tmp_path, file.parent, file, found)]
  assert all(x.process == opened[0].process for x in opened)
  assert all(x.config() == found for x in opened)
  other = {"num_train_timesteps": 500} if name == fields.FLOW else {"beta_end": 0.013}
  assert opened[0].process != schedulers.load_scheduler(found | other).process


@pytest.mark.parametrize("name", EVERY)
def test_the_noise_of_a_task_is_that_which_the_original_begins_with(name):
  """A task multiplies it by the process' sigma: together `init_noise_sigma`."""
  scheduler = schedulers.load_scheduler({"_class_name": name, **EVERY[name]})
  ts = scheduler.time_grid(20)
  noise = scheduler.initial_noise_fn(ts, draw=lambda key, shape: np.ones(shape))(
    None, ()
  )
  sigma = scheduler.process.alpha_sigma(ts[:1])[1]
  np.testing.assert_allclose(sigma * noise, scheduler.init_noise_sigma(ts), rtol=1e-6)


@pytest.mark.parametrize("name", [fields.DPM, fields.UNIPC])
def test_leading_steps_of_multistep_solvers_begin_at_their_offset(name):
  config = {"_class_name": name, **SD, "timestep_spacing": "leading", "steps_offset": 3}
  betas = np.linspace(SD["beta_start"] ** 0.5, SD["beta_end"] ** 0.5, 1000) ** 2
  alpha_bar = np.cumprod(1.0 - betas)[[803, 603, 403, 203]]
  ts = schedulers.load_scheduler(config).time_grid(4)
  np.testing.assert_allclose(ts[:4], np.sqrt(1 / alpha_bar - 1), rtol=1e-4)


def test_everything_that_is_not_supported_is_listed():
  config = {
    "_class_name": fields.DPM,
    "algorithm_type": "dpmsolver",
    "beta_schedule": "sigmoid",
    "solver_order": 4,
    "use_karras_sigmas": True,
    "use_beta_sigmas": True,
    "prediction_type": "flow_prediction",
    "clip_sample": "of another class",
  }
  with pytest.raises(ValueError) as error:
    schedulers.load_scheduler(config)
  said = str(error.value)
  for part in (
    "algorithm_type='dpmsolver'; supported: 'dpmsolver++', 'sde-dpmsolver++'",
    "beta_schedule='sigmoid'",
    "solver_order=4; supported: 1, 2, 3",
    "use_karras_sigmas and use_beta_sigmas",
    "'flow_prediction' with use_flow_sigmas=False",
    "has 5 fields",
  ):
    assert part in said
  assert "clip_sample" not in said


def test_a_value_that_is_not_supported_is_named():
  for name, change in (
    (fields.DDPM, {"variance_type": "learned"}),
    (fields.DDPM, {"trained_betas": [0.1, 0.2]}),
    (fields.EULER, {"interpolation_type": "log_linear"}),
    (fields.ANCESTRAL, {"prediction_type": "sample"}),
    (fields.DPM, {"solver_order": 3, "algorithm_type": "sde-dpmsolver++"}),
    (fields.UNIPC, {"predict_x0": False}),
    (fields.UNIPC, {"disable_corrector": [0]}),
    (fields.UNIPC, {"lower_order_final": False}),
    (fields.UNIPC, {"use_karras_sigmas": True, "final_sigmas_type": "sigma_min"}),
    (fields.FLOW, {"stochastic_sampling": True}),
    (fields.FLOW, {"invert_sigmas": True}),
  ):
    schedulers.load_scheduler({"_class_name": name})
    with pytest.raises(ValueError, match=next(iter(change))):
      schedulers.load_scheduler({"_class_name": name, **change})


def test_another_class_is_refused_by_name(tmp_path):
  with pytest.raises(ValueError, match="is a LCMScheduler; supported are DDIMSched"):
    schedulers.load_scheduler({"_class_name": "LCMScheduler"})
  with pytest.raises(ValueError, match="skip_prk_steps=False; supported: True"):
    schedulers.load_scheduler({"_class_name": "PNDMScheduler"})
  with pytest.raises(ValueError, match="is a None"):
    schedulers.load_scheduler({})
  with pytest.raises(FileNotFoundError, match="No scheduler here"):
    schedulers.load_scheduler("/nowhere/scheduler_config.json")
  for text in ("{", "[" * 200_000, "\xff", "[1]"):
    (tmp_path / "scheduler_config.json").write_text(text, "latin-1")
    with pytest.raises(
      ValueError, match="scheduler_config.json (is no JSON|holds a l)"
    ):
      schedulers.load_scheduler(tmp_path)


def test_another_scheduler_has_the_betas_of_the_config():
  """As diffusers' from_config: `vdm_jax.load(folder, scheduler="ddim")`."""
  config = {"_class_name": "LCMScheduler", **SD, "steps_offset": 1}
  for kind in ("ddim", fields.DDIM):
    made = schedulers.load_scheduler(config, kind)
    assert made.config() == config | {"_class_name": fields.DDIM}
    assert made.process == schedulers.load_scheduler(made.config()).process
  with pytest.raises(ValueError, match="scheduler='dimm'; there are ddim, ddpm"):
    schedulers.load_scheduler(config, "dimm")


def test_the_names_of_other_solvers_are_replaced_as_diffusers_does():
  text = lambda config: str(schedulers.load_scheduler(config))
  same = lambda a, b: text(a) == text(b)
  dpm, pc = {"_class_name": fields.DPM}, {"_class_name": fields.UNIPC}
  assert same(dpm | {"solver_type": "bh2", "algorithm_type": "deis"}, dpm)
  assert not same(dpm | {"solver_type": "heun"}, dpm)
  assert same(pc | {"solver_type": "heun"}, pc)
  assert not same(pc | {"solver_type": "bh1"}, pc)
  unused = {"solver_type": "bh1", "_use_default_values": ["solver_type"]}
  assert same(pc | unused, pc)


def test_wrong_grids_are_refused():
  dynamic = {"_class_name": fields.FLOW, "use_dynamic_shifting": True}
  flow = schedulers.load_scheduler(dynamic)
  with pytest.raises(ValueError, match="give mu"):
    flow.time_grid(10)
  with pytest.raises(ValueError, match="3 sigmas were given for num_steps=4"):
    flow.time_grid(4, mu=1.0, sigmas=[1.0, 0.5, 0.2])
  for name in EVERY:
    scheduler = schedulers.load_scheduler({"_class_name": name})
    for wrong in (0, 1001):
      with pytest.raises(ValueError, match="takes 1 to 1000"):
        scheduler.time_grid(wrong)
  ddim = {"_class_name": fields.DDIM, "steps_offset": 1}
  with pytest.raises(ValueError, match="take fewer steps"):
    schedulers.load_scheduler(ddim).time_grid(1000)


def test_noise_levels_that_do_not_rise_are_refused_where_they_are_looked_up():
  config = {"_class_name": fields.UNIPC, "rescale_betas_zero_snr": True}
  schedulers.load_scheduler(config)
  with pytest.raises(ValueError, match="do not rise"):
    schedulers.load_scheduler(config | {"use_karras_sigmas": True})


def test_a_scheduler_is_a_value():
  config = {"_class_name": fields.DDPM, **SD}
  scheduler = schedulers.load_scheduler(config)
  config["beta_end"] = 0.5
  assert scheduler.config()["beta_end"] == SD["beta_end"]
  assert hash(scheduler.process) == hash(copy.deepcopy(scheduler.process))
  # The table is the named schedule's, to float32.
  named = p.DDPM(schedule="scaled_linear")
  t = np.float32([[1.0, 20.0, 999.0]])
  found = scheduler.process.alpha_sigma(t)
  np.testing.assert_allclose(found, named.alpha_sigma(t), rtol=2e-4)
