"""The processes of diffusers' solvers; the contract's list has them too."""

import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.diffusion import process as p
from vdm_jax.pretrained.schedulers import processes


def test_a_ratio_has_the_index_of_its_table():
  table = (0.1, 0.4, 1.6, 6.4)
  ts = jnp.array([[0.0, 0.1, 0.25, 0.8, 1.2, 6.4, 50.0]])
  x = jnp.ones((1, 7, 1, 1, 1))
  index = lambda **k: processes.SigmaTableProcess(table, t_max=6.4, **k).network_inputs(
    x, ts
  )[1][0]
  even = [0, 0, 0.5, 1 + 1 / 3, 1 + 2 / 3, 3, 3]
  np.testing.assert_allclose(index(), even, rtol=1e-6)
  np.testing.assert_array_equal(index(rounding="nearest"), [0, 0, 0, 1, 2, 3, 3])
  np.testing.assert_array_equal(index(rounding="down"), [0, 0, 0, 1, 1, 3, 3])
  logs = [0, 0, np.log(2.5) / np.log(4), 1.5, 1 + np.log(3) / np.log(4), 3, 3]
  np.testing.assert_allclose(index(log_index=True), logs, rtol=1e-6)
  # The network sees the same x whether x is divided by alpha or not.
  make = lambda e: processes.SigmaTableProcess(table, t_max=6.4, exploding=e)
  far, near = make(True), make(False)
  alpha, sigma = near.alpha_sigma(ts)
  np.testing.assert_allclose((sigma / alpha)[0, 1:], ts[0, 1:], rtol=1e-6)
  seen, _ = far.network_inputs(x, ts)
  np.testing.assert_allclose(seen, near.network_inputs(p.expand(alpha) * x, ts)[0])
  with pytest.raises(ValueError, match="rounding='up'"):
    processes.SigmaTableProcess(table, t_max=6.4, rounding="up")
  with pytest.raises(ValueError, match="two or more and increase"):
    processes.SigmaTableProcess((0.4, 0.1), t_max=6.4)


def test_a_flow_of_whole_steps_may_start_closer_to_the_noise():
  process = processes.RoundedTimeFlow(scale=50.0)
  t = jnp.array([[0.999999, 0.31]])
  np.testing.assert_array_equal(process.network_inputs(t, t)[1], [[49.0, 15.0]])
  np.testing.assert_allclose(process.alpha_sigma(t)[0], [[1e-6, 0.69]], rtol=0.1)
  assert p.Flow().alpha_sigma(t)[0][0, 0] == np.float32(p.FLOOR)
