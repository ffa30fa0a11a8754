"""Tables, rows and inputs against the papers and the original's own numbers."""

import functools

import jax
import numpy as np
import pytest

from tests.support import golden_files
from vdm_jax.diffusion import process as p


def scales(process, *t):
  """alpha and sigma at times t, [T] each."""
  alpha, sigma = jax.jit(process.alpha_sigma)(np.float32([t]))
  return np.asarray(alpha)[0], np.asarray(sigma)[0]


def test_tables_are_the_originals():
  _, golden = golden_files.read("latte_diffusion")
  for ours, theirs in (("linear", "linear"), ("squaredcos", "squaredcos_cap_v2")):
    betas = p.betas(ours)
    np.testing.assert_allclose(betas, golden[f"out_{theirs}_betas"], rtol=1e-6)
    process = p.DDPM(schedule=ours)
    alpha, sigma = scales(process, *range(1, 1001))  # index k is t = k + 1
    alpha_bar = np.cumprod(1.0 - betas)
    # In float32 log alpha_bar is known to half an ulp of 20.
    np.testing.assert_allclose(alpha**2, alpha_bar, rtol=2e-6)
    recorded = golden[f"out_{theirs}_alphas_cumprod"]
    np.testing.assert_allclose(alpha**2, recorded, rtol=2e-6)
    np.testing.assert_allclose(sigma**2, 1.0 - alpha_bar, rtol=2e-6)
    # The table is not this close to its neighbour.
    assert not np.allclose(alpha[1:] ** 2, alpha_bar[:-1], rtol=2e-6)


def test_scaled_linear_is_linear_in_the_root():
  betas = p.betas("scaled_linear")
  np.testing.assert_allclose(betas[[0, -1]], [0.00085, 0.012])
  np.testing.assert_allclose(np.diff(np.sqrt(betas), 2), 0.0, atol=1e-12)
  # Stable Diffusion's last alpha_bar.
  alpha, _ = scales(p.DDPM(schedule="scaled_linear"), 1000)
  np.testing.assert_allclose(alpha**2, 0.00466, atol=5e-6)


def test_betas_may_have_other_ends_and_another_number_of_steps():
  # AnimateDiff: linear in beta, between Stable Diffusion's ends.
  betas = p.betas("linear", 1000, (0.00085, 0.012))
  np.testing.assert_allclose(betas[:2], [0.00085, 0.00086116], rtol=1e-5)
  process = p.DDPM(beta_ends=[0.00085, 0.012])  # a config gives a list
  assert scales(process, 1)[0] ** 2 == np.float32(1 - 0.00085)
  # Fewer steps of the same noise, to the first order.
  coarse, _ = scales(p.DDPM(num_steps=100), 50)
  fine, _ = scales(p.DDPM(), 500)
  np.testing.assert_allclose(coarse, fine, rtol=0.03)


def test_between_steps_log_alpha_bar_is_a_line():
  before, between, after = 2 * np.log(scales(p.DDPM(), 300, 300.25, 301)[0])
  np.testing.assert_allclose(between, 0.75 * before + 0.25 * after, rtol=1e-6)


def test_a_table_of_betas_is_a_process():
  process = p.DDPM(num_steps=1000, table=tuple(p.betas("scaled_linear")))
  named = p.DDPM(schedule="scaled_linear")
  t = np.float32([[0.0, 1.0, 300.5, 1000.0]])
  all_of = lambda process: (process.alpha_sigma(t), process.rates(t))
  np.testing.assert_array_equal(*jax.jit(lambda: (all_of(process), all_of(named)))())
  with pytest.raises(ValueError, match="2 betas for num_steps=3"):
    p.DDPM(num_steps=3, table=(0.1, 0.2))


def test_a_wrong_schedule_is_refused():
  with pytest.raises(ValueError, match="lineer.*expected one of.*scaled_linear"):
    p.DDPM(schedule="lineer")
  with pytest.raises(ValueError, match="no beta_ends"):
    p.DDPM(schedule="squaredcos", beta_ends=(0.1, 0.2))


def test_networks_see_the_units_of_their_papers():
  x = np.ones((1, 3, 1, 1, 1), np.float32)
  seen = lambda process, t: jax.jit(process.network_inputs)(x, np.float32([t]))[1][0]
  np.testing.assert_array_equal(seen(p.DDPM(), [0.0, 1.0, 1000.0]), [0, 0, 999])
  np.testing.assert_allclose(seen(p.Flow(), [0.0, 0.25, 1.0]), [0, 250, 1000])
  np.testing.assert_allclose(seen(p.Cosine(), [0.0, 0.25, 0.999]), [0, 250, 999])
  sigma = np.float32([[0.002, 1.0, 80.0]])
  scaled, noise = map(np.asarray, jax.jit(p.EDM().network_inputs)(x, sigma))
  np.testing.assert_allclose(noise, np.log(sigma) / 4, rtol=1e-6)
  c_in = 1 / np.sqrt(sigma**2 + 0.25)
  np.testing.assert_allclose(scaled[..., 0, 0, 0], c_in, rtol=1e-6)


def test_edm_is_the_preconditioning_of_its_paper():
  """And "v" on it is what Stable Video Diffusion predicts."""
  sigma = np.float32([[0.002, 0.05, 3.0, 700.0]])
  x_t, out = np.random.default_rng(0).standard_normal((2, 1, 4, 2, 2, 1))
  for prediction, sigma_data, sign in (("edm", 0.5, 1.0), ("v", 1.0, -1.0)):
    process = p.EDM(t_max=700.0, sigma_data=sigma_data)
    total = sigma**2 + sigma_data**2
    c_skip, c_out = sigma_data**2 / total, sign * sigma * sigma_data / np.sqrt(total)
    run = jax.jit(functools.partial(p.x0_from_output, process, prediction))
    x0 = run(x_t, out, sigma)
    expected = p.mix((c_skip, c_out), x_t, out)
    np.testing.assert_allclose(x0, expected, rtol=1e-5, atol=1e-6)


def test_velocity_on_flow_is_noise_minus_data():
  run = jax.jit(lambda t: p.prediction_coefficients("velocity", p.Flow(), t))
  rows = run(np.float32([[0.0, 0.3, 1.0]]))
  np.testing.assert_array_equal(rows, [[[-1, -1, -1]], [[1, 1, 1]]])


def test_wrong_predictions_are_refused():
  with pytest.raises(ValueError, match="'noise'; expected one of"):
    p.prediction_coefficients("noise", p.Flow(), np.zeros((1, 1)))
  with pytest.raises(ValueError, match="sigma_data"):
    p.check_prediction("edm", p.Flow())
