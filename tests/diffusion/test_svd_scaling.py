"""Stable Video Diffusion's preconditioning, grid, guidance and sampler are sgm's."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange

from tests.support import golden_files, parity_table
from vdm_jax.conditioning import Conditioning
from vdm_jax.diffusion import denoise as d
from vdm_jax.diffusion import guidance, times
from vdm_jax.diffusion import process as p
from vdm_jax.diffusion.samplers import euler
from vdm_jax.layers import embeddings

PROCESS = p.EDM(t_max=700.0, sigma_data=1.0)
FRAMES = 14
RISING = functools.partial(guidance.linear_over_frames, start=1.0, stop=2.5)
ROW = "SVD, preconditioning and Euler"
KEY = jax.random.key(0)  # not used
error = golden_files.error


@pytest.fixture(scope="module")
def recorded():
  """The arrays, videos as [B, T, H, W, C]."""
  _, arrays = golden_files.read("svd_scaling")
  video = lambda x: rearrange(x, "... t c h w -> ... 1 t h w c") if x.ndim > 3 else x
  return {k: video(x) for k, x in arrays.items()}


def errors_of(found, recorded):
  """{name: error}; each state of the sampler in its own size, the first is 700."""
  out = {k: error(x, recorded[k]) for k, x in found.items() if k != "out_euler"}
  states = zip(found["out_euler"][1:], recorded["out_euler"][1:], strict=True)
  return out | {"out_euler": max(error(x, y) for x, y in states)}


def scaling(process, prediction, sigma):
  """c_skip, c_out, c_in, c_noise, read off one-pixel videos."""
  t = sigma[None]
  one = jnp.ones((1, len(sigma), 1, 1, 1))
  zero = jnp.zeros_like(one)
  scaled, noise = process.network_inputs(one, t)
  skip = p.x0_from_output(process, prediction, one, zero, t)
  out = p.x0_from_output(process, prediction, zero, one, t)
  names = ("out_c_skip", "out_c_out", "out_c_in", "out_c_noise")
  return {k: x.ravel() for k, x in zip(names, (skip, out, scaled, noise), strict=True)}


def denoised(process, prediction, z):
  network = d.from_network(lambda x, t, cond: z["in_f"], process, prediction)
  return network(z["in_x"], z["in_sigma_frames"][None], None).x0


def guided(scale, z):
  """The guidance of two given estimates."""

  def denoise(x_t, t, cond):
    full = p.expand(cond.vectors["text"][:, None]) > 0
    both = (jnp.repeat(z[f"in_x_{k}"], 2, axis=0) for k in "cu")
    return d.Denoised(jnp.where(full, *both))

  denoise = guidance.guide(denoise, signal(0.0), drop=("text",), scales=(scale,))
  return denoise(z["in_x_c"], jnp.ones((1, FRAMES)), signal(1.0)).x0


def signal(x):
  return Conditioning(vectors={"text": jnp.array([x])})


def paths(process, prediction, scale, z):
  """The states of 6 Euler steps with a toy network, one by one."""
  weight = rearrange(z["in_w"], "c 1 1 -> c")

  def apply(x, t, cond):
    text = p.expand(cond.vectors["text"][:, None])
    return jnp.tanh(x) * weight + 0.1 * p.expand(t) + text

  network = d.from_network(apply, process, prediction)
  denoise = guidance.guide(network, signal(-0.2), drop=("text",), scales=(scale,))
  ts = times.karras_grid(process, num_steps=6)
  step = lambda x, ts: euler.euler(denoise, process, x, ts, signal(0.3), KEY)
  step, states = jax.jit(step), [z["in_x"] * np.sqrt(1.0 + ts[0] ** 2)]
  for n in range(6):
    states.append(step(states[-1], ts[n : n + 2]))
  return np.stack(states)


def test_every_recorded_array_is_the_originals(recorded, record_property):
  t = np.ones((1, FRAMES))
  ours = lambda z: {
    **scaling(PROCESS, "v", z["in_sigma"]),
    "out_sigmas": times.karras_grid(PROCESS, num_steps=25),
    "out_guider_scale": RISING(t),
    "out_triangle_scale": guidance.triangular_over_frames(t, ends=1.0, middle=2.5),
    "out_guided": guided(RISING, z),
    "out_denoised": denoised(PROCESS, "v", z),
    "out_vector": rearrange(embeddings.sinusoid(z["in_ids"], 256), "b k d -> b (k d)"),
  }
  found = jax.tree.map(np.asarray, jax.jit(ours)(recorded))
  found["out_euler"] = paths(PROCESS, "v", RISING, recorded)
  assert found.keys() == {k for k in recorded if k.startswith("out_")}
  errors = errors_of(found, recorded)
  assert max(errors.values()) <= 1, errors
  assert error(found["out_euler"][0], recorded["out_euler"][0]) <= 1
  worst = 1e-4 * float(max(errors.values()))
  parity_table.note(record_property, ROW, error=worst, bound=1e-4)


def test_other_settings_are_seen(recorded, record_property):
  half = p.EDM(t_max=700.0, sigma_data=0.5)
  flat = functools.partial(guidance.linear_over_frames, start=2.5, stop=2.5)
  shifted = functools.partial(embeddings.sinusoid, dim=256, shift=1)
  other = lambda z: {
    # v does not know sigma_data; the scale of the input does, and all of "edm".
    **scaling(half, "edm", z["in_sigma"]),
    "out_sigmas": times.karras_grid(PROCESS, num_steps=25, rho=6.0),
    "out_guider_scale": flat(np.ones((1, FRAMES))),
    "out_triangle_scale": RISING(np.ones((1, FRAMES))),
    "out_guided": guided(flat, z),
    "out_denoised": denoised(half, "edm", z),
    "out_vector": rearrange(shifted(z["in_ids"]), "b k d -> b (k d)"),
  }
  other = jax.tree.map(np.asarray, jax.jit(other)(recorded))
  other["out_euler"] = paths(PROCESS, "v", flat, recorded)
  del other["out_c_noise"]  # log(sigma) / 4 in either
  errors = errors_of(other, recorded)
  assert min(errors.values()) > 10, errors
  parity_table.note(record_property, ROW, control=float(min(errors.values())))


def test_a_triangle_of_an_odd_clip_has_its_peak_in_the_middle_frame():
  t = np.ones((2, 5))
  scale = jax.jit(lambda: guidance.triangular_over_frames(t, ends=1.0, middle=3.0))()
  np.testing.assert_allclose(scale, [[1.0, 2.0, 3.0, 2.0, 1.0]] * 2)
