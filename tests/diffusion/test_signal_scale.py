"""VideoCrafter's scale on the signal: its noise and its DDIM."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange

from tests.support import golden_files, parity_table
from vdm_jax.conditioning import Conditioning
from vdm_jax.diffusion import denoise as d
from vdm_jax.diffusion import guidance, signal_scale, times, variance
from vdm_jax.diffusion import process as p
from vdm_jax.diffusion.samplers import ddim, loop

DDPM = p.DDPM(schedule="scaled_linear")
PROCESS = signal_scale.SignalScaledProcess(DDPM, scale=0.7, steps=400)
ROW = "VideoCrafter, scale of the signal"
error = golden_files.error


@pytest.fixture(scope="module")
def original():
  """(meta, arrays), the videos as [..., T, H, W, C]."""
  meta, arrays = golden_files.read("videocrafter_use_scale")
  video = lambda x: rearrange(x, "... c t h w -> ... t h w c") if x.ndim > 4 else x
  return meta, {k: video(x) for k, x in arrays.items()}


def grid(num_steps):
  """Their uniform steps; the last leads to index 0, not to the data."""
  ts = times.leading_grid(PROCESS, num_steps=num_steps, offset=1)
  return np.append(ts[:-1], np.float32(1.0))


def noised(process, z):
  t = np.repeat(z["in_t"][:, None] + 1.0, z["in_x0"].shape[1], axis=1)
  return p.mix(jax.jit(process.alpha_sigma)(t), z["in_x0"], z["in_noise"])


def steps(process, meta, z):
  """(x_prev, x0) of one step of DDIM for each of the recorded indices."""
  signal = lambda x: Conditioning(vectors={"text": jnp.asarray(np.float32([x, x]))})
  cond, null = signal(1), signal(0)

  def apply(x, t, cond):
    text = rearrange(cond.vectors["text"], "b -> b 1 1 1 1")
    e_cond, e_uncond = (np.repeat(z[f"in_e_{k}"], 2, 0) for k in ("cond", "uncond"))
    return jnp.where(text > 0, e_cond, e_uncond)

  network = d.from_network(apply, process, "eps")
  scale = meta["config"]["cfg_scale"]
  denoise = guidance.guide(network, null, drop=("text",), scales=(scale,))

  @jax.jit
  def step(ts):
    key = loop.RecordedNoise(z["in_ddim_noise"][None])
    x_prev = ddim.ddim(denoise, process, z["in_x"], ts, cond, key, eta=1.0)
    x0 = denoise(z["in_x"], jnp.full(z["in_x"].shape[:2], ts[0]), cond).x0
    return x_prev, x0

  ts = grid(50)
  at = [ts[49 - i : 51 - i] for i in z["in_index"]]
  return [np.stack(x) for x in zip(*map(step, at), strict=True)]


def tables(process):
  """What the original keeps of its process, by its names."""
  ts = grid(50)
  t, s = ts[-2::-1][None], ts[:0:-1][None]  # their index 0 is the last step
  k = 1.0 + np.arange(1400.0)
  alpha = lambda t: process.base.alpha_sigma(t)[0] ** 2
  out = lambda: {
    "scale_arr": process.signal(k),
    "ddim_timesteps": t[0] - 1,
    "ddim_scale_arr": process.signal(t[0]),
    "ddim_scale_arr_prev": process.signal(s[0]),
    "ddim_sigmas": jnp.sqrt(variance.ddim_variance(process, t, s))[0],
    "ddim_alphas": alpha(t[0]),
    "ddim_alphas_prev": alpha(s[0]),
    "alphas_cumprod": alpha(k[:1000]),
  }
  return {f"out_{name}": x for name, x in jax.jit(out)().items()}


def test_every_recorded_array_is_the_originals(original, record_property):
  meta, z = original
  ours = tables(PROCESS) | {"out_q_sample": noised(PROCESS, z)}
  ours["out_x_prev"], ours["out_pred_x0"] = steps(PROCESS, meta, z)
  assert ours.keys() == {k for k in z if k.startswith("out_")}
  errors = {k: error(x, z[k]) for k, x in ours.items()}
  assert max(errors.values()) <= 1, errors
  worst = 1e-4 * float(max(errors.values()))
  parity_table.note(record_property, ROW, error=worst, bound=1e-4)


def test_another_scale_and_another_variance_are_seen(
  original, monkeypatch, record_property
):
  meta, z = original
  for process in (DDPM, signal_scale.SignalScaledProcess(DDPM, 0.7, 200)):
    found = [error(noised(process, z), z["out_q_sample"])]
    x_prev, x0 = steps(process, meta, z)
    found += [error(x_prev, z["out_x_prev"]), error(x0, z["out_pred_x0"])]
    assert min(found) > 10, found
    parity_table.note(record_property, ROW, control=float(min(found)))
  # The posterior of the scaled process itself is not what DDIM adds.
  monkeypatch.setattr(variance, "ddim_variance", variance.posterior_variance)
  x_prev, x0 = steps(PROCESS, meta, z)
  assert error(x_prev, z["out_x_prev"]) > 10 and error(x0, z["out_pred_x0"]) <= 1


def test_ancestral_steps_keep_the_marginals_of_the_scaled_process():
  """alpha_t = ratio alpha_s and sigma_t^2 = var + (ratio sigma_s)^2, all the way."""
  t, s = np.float32([[[2, 150, 400, 401, 999]], [[1, 40, 1, 2, 9]]])
  found = lambda: (
    *(PROCESS.alpha_sigma(t), PROCESS.alpha_sigma(s)),
    variance.transition_scale_and_variance(PROCESS, t, s),
    (variance.ddim_variance(PROCESS, t, s), variance.posterior_variance(PROCESS, t, s)),
  )
  (alpha, sigma), (alpha_s, sigma_s), (ratio, var), (ddims, posterior) = np.asarray(
    jax.jit(found)()
  )
  np.testing.assert_allclose(ratio * alpha_s, alpha, rtol=1e-5)
  np.testing.assert_allclose(var + (ratio * sigma_s) ** 2, sigma**2, rtol=1e-5)
  assert (ddims < sigma_s**2).all() and (posterior > ddims).all()


def test_a_scale_of_one_is_the_base():
  same, t = (
    signal_scale.SignalScaledProcess(DDPM, scale=1.0),
    np.array([[0.0, 1, 77.3, 1000]]),
  )
  all_of = lambda process: (process.alpha_sigma(t), process.rates(t))
  np.testing.assert_array_equal(*jax.jit(lambda: (all_of(same), all_of(DDPM)))())


def test_scales_that_cannot_be_are_refused():
  with pytest.raises(ValueError, match=r"scale=0\.0"):
    signal_scale.SignalScaledProcess(DDPM, scale=0.0)
  with pytest.raises(ValueError, match="2 to 1000 steps"):
    signal_scale.SignalScaledProcess(DDPM, steps=1001)
