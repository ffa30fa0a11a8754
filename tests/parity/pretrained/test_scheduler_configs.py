"""Configs of schedulers are opened, refused and written; a task samples with them."""

import copy
import json
import types

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.parity.pretrained.schedulers.test_schedulers import made, original
from tests.support.published import trajectories
from vdm_jax import conditioning
from vdm_jax.diffusion import process as p
from vdm_jax.diffusion.samplers import loop
from vdm_jax.pretrained.schedulers import fields, schedulers
from vdm_jax.tasks import latent_diffusion

SD = trajectories.SD
EVERY = {
  fields.DDPM: {**SD, "variance_type": "fixed_large", "timestep_spacing": "trailing"},
  fields.DDIM: {**SD, "steps_offset": 1, "set_alpha_to_one": False},
  fields.EULER: {**SD, "timestep_spacing": "leading", "steps_offset": 1},
  fields.ANCESTRAL: SD,
  fields.DPM: {**SD, "use_karras_sigmas": True, "algorithm_type": "sde-dpmsolver++"},
  fields.UNIPC: {**SD, "solver_order": 3},
  fields.FLOW: {"shift": 3.0},
}


def sampled(scheduler, ts, start, noise):
  """What LatentDiffusion makes of the same network and the same noise."""
  channels = trajectories.channels_of(scheduler.original)
  apply = lambda params, x, t, cond, **_: trajectories.network(
    x, t[0, 0], jnp, channels
  )
  empty = conditioning.Conditioning()
  task = latent_diffusion.LatentDiffusion(
    network=types.SimpleNamespace(apply=apply),
    process=scheduler.process,
    prediction=scheduler.prediction,
    conditioner=lambda batch: (empty, empty),
  )
  sampler = lambda *args: scheduler.sampler(*args[:-1], loop.RecordedNoise(noise))

  @jax.jit
  def run(key):
    return task.sample(
      {},
      {},
      trajectories.SHAPE,
      key,
      sampler=sampler,
      ts=ts,
      wrappers=scheduler.wrappers,
      noise=scheduler.noise(ts, draw=lambda key, shape: start),
    )

  with jax.default_matmul_precision("highest"):
    return np.asarray(run(jax.random.key(0)))


@pytest.mark.parametrize("name", EVERY)
def test_a_task_samples_what_the_original_does(name, monkeypatch):
  config = {"_class_name": name, **EVERY[name]}
  start, noise = trajectories.noises(20)
  theirs = made(config)
  path, _ = original(theirs, 20, start, noise, monkeypatch)
  scheduler = schedulers.load_scheduler(config)
  x = sampled(scheduler, scheduler.ts(20), start, noise)
  limit = 1e-4 * np.abs(path[-1]).max()
  assert np.abs(x - path[-1]).max() < limit
  # A start that is not the original's is noticed.
  wrong = sampled(scheduler, scheduler.ts(20), 1.01 * start, noise)
  assert np.abs(wrong - path[-1]).max() > limit


@pytest.mark.parametrize("name", EVERY)
def test_a_config_is_opened_from_where_it_stands_and_written_back(name, tmp_path):
  config = {"_class_name": name, **EVERY[name]}
  made(config).save_pretrained(tmp_path / "scheduler")
  file = tmp_path / "scheduler" / "scheduler_config.json"
  found = json.loads(file.read_text())
  opened = [schedulers.load_scheduler(x) for x in (tmp_path, file.parent, file, found)]
  assert all(x.process == opened[0].process for x in opened)
  assert all(x.config() == found for x in opened)

  schedulers.save_scheduler(tmp_path / "again", opened[0])
  again = getattr(diffusers, name).from_pretrained(tmp_path / "again")
  theirs = getattr(diffusers, name).from_pretrained(file.parent)
  assert dict(again.config) == dict(theirs.config)
  assert (
    opened[0].process != schedulers.load_scheduler({**found, **other(name)}).process
  )


def other(name):
  return {"num_train_timesteps": 500} if name == fields.FLOW else {"beta_end": 0.013}


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_the_network_is_called_at_the_originals_times(schedule, spacing):
  """Whole times to the bit, whatever the number of steps; other ones to a rounding."""
  names = [None, "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"]
  for name in EVERY:
    known = fields.DEFAULTS[name]
    for shape in [s for s in (*names, "use_lu_lambdas") if s is None or s in known]:
      config = {"_class_name": name, "beta_schedule": schedule}
      config |= {"timestep_spacing": spacing} | ({shape: True} if shape else {})
      config = {k: v for k, v in config.items() if k in known or k == "_class_name"}
      theirs, scheduler = made(config), schedulers.load_scheduler(config)
      for num_steps in (5, 17, 50):
        theirs.set_timesteps(num_steps)
        ts = scheduler.ts(num_steps)
        x = np.zeros((1, len(ts) - 1, 1, 1, 1))
        _, times = scheduler.process.network_inputs(x, jnp.asarray(ts[None, :-1]))
        wanted = theirs.timesteps.numpy()
        whole = wanted.dtype.kind == "i"
        limit = 0.0 if whole else 1.5e-4
        gap = np.abs(np.asarray(times)[0] - wanted).max()
        assert gap <= limit, (config, num_steps, gap)
        if hasattr(theirs, "sigmas"):
          np.testing.assert_allclose(ts, theirs.sigmas, rtol=1e-5)


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


@pytest.mark.parametrize(
  ("name", "change"),
  [
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
  ],
)
def test_a_value_that_is_not_supported_is_named(name, change):
  schedulers.load_scheduler({"_class_name": name})
  with pytest.raises(ValueError, match=next(iter(change))):
    schedulers.load_scheduler({"_class_name": name, **change})


def test_another_class_is_refused_by_name():
  with pytest.raises(ValueError, match="is a PNDMScheduler; supported are DDIMSched"):
    schedulers.load_scheduler({"_class_name": "PNDMScheduler"})
  with pytest.raises(ValueError, match="is a None"):
    schedulers.load_scheduler({})
  with pytest.raises(FileNotFoundError, match="No scheduler here"):
    schedulers.load_scheduler("/nowhere/scheduler_config.json")


def test_the_names_of_other_solvers_are_replaced_as_diffusers_does():
  same = lambda a, b: (
    str(schedulers.load_scheduler(a)) == str(schedulers.load_scheduler(b))
  )
  dpm, pc = {"_class_name": fields.DPM}, {"_class_name": fields.UNIPC}
  assert same(dpm | {"solver_type": "bh2", "algorithm_type": "deis"}, dpm)
  assert not same(dpm | {"solver_type": "heun"}, dpm)
  assert same(pc | {"solver_type": "heun"}, pc)
  assert not same(pc | {"solver_type": "bh1"}, pc)
  unused = {"solver_type": "bh1", "_use_default_values": ["solver_type"]}
  assert same(pc | unused, pc)


def test_wrong_grids_are_refused():
  flow = schedulers.load_scheduler(
    {"_class_name": fields.FLOW, "use_dynamic_shifting": True}
  )
  with pytest.raises(ValueError, match="give mu"):
    flow.ts(10)
  with pytest.raises(ValueError, match="3 sigmas were given for num_steps=4"):
    flow.ts(4, mu=1.0, sigmas=[1.0, 0.5, 0.2])
  for name in EVERY:
    scheduler = schedulers.load_scheduler({"_class_name": name})
    for wrong in (0, 1001):
      with pytest.raises(ValueError, match="takes 1 to 1000"):
        scheduler.ts(wrong)
  ddim = {"_class_name": fields.DDIM, "steps_offset": 1}
  with pytest.raises(ValueError, match="take fewer steps"):
    schedulers.load_scheduler(ddim).ts(1000)


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
  for ours, wanted in zip(
    scheduler.process.alpha_sigma(t), named.alpha_sigma(t), strict=True
  ):
    np.testing.assert_allclose(ours, wanted, rtol=2e-4)
