"""Configs that diffusers saves open and go back; times are those of its classes."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from tests.parity.schedulers import made
from tests.support.published.trajectories import EVERY
from vdm_jax.pretrained.schedulers import fields, schedulers


@pytest.mark.parametrize("name", EVERY)
def test_what_diffusers_saves_opens_and_goes_back(name, tmp_path):
  theirs, ours = tmp_path / "theirs", tmp_path / "ours"
  original = made({"_class_name": name, **EVERY[name]})
  original.save_pretrained(theirs)
  opened = schedulers.load_scheduler(theirs)
  assert opened.config() == json.loads((theirs / schedulers.FILE).read_text())
  schedulers.save_scheduler(ours, opened)
  again, config = (type(original).from_pretrained(f).config for f in (ours, theirs))
  assert dict(again) == dict(config)


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
        ts = scheduler.time_grid(num_steps)
        x = np.zeros((1, len(ts) - 1, 1, 1, 1))
        _, times = scheduler.process.network_inputs(x, jnp.asarray(ts[None, :-1]))
        expected = theirs.timesteps.numpy()
        whole = expected.dtype.kind == "i"
        limit = 0.0 if whole else 1.5e-4
        gap = np.abs(np.asarray(times)[0] - expected).max()
        assert gap <= limit, (config, num_steps, gap)
        if hasattr(theirs, "sigmas"):
          np.testing.assert_allclose(ts, theirs.sigmas, rtol=1e-5)
