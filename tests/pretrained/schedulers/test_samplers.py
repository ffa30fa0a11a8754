"""DDIM's steps in diffusers; its DDPM's are in tests/diffusion/samplers."""

import jax
import jax.numpy as jnp
import numpy as np

from vdm_jax.diffusion import denoise as d
from vdm_jax.diffusion import process as p
from vdm_jax.pretrained.schedulers import samplers


def test_a_step_may_lead_past_the_next_time_and_clipping_leaves_eps_alone():
  process, ts = p.DDPM(), jnp.array([1000.0, 600.0, 0.0])
  x = jnp.full((1, 1, 1, 1, 1), 3.0)
  denoise = lambda x_t, t, cond: d.Denoised(0.5 * x_t)
  args = denoise, process, x, ts, None, jax.random.key(0)
  run = lambda **k: samplers.ddim(*args, **k).item()
  alpha, sigma = (np.asarray(a)[0] for a in process.alpha_sigma(ts[None]))
  alpha_400, sigma_400 = (float(a) for a in process.alpha_sigma(400.0))
  eps = (3.0 - alpha[0] * 1.5) / sigma[0]
  # To 400, then x0 of that, as if it stood at 600.
  further = 0.5 * (alpha_400 * 1.5 + sigma_400 * eps)
  np.testing.assert_allclose(run(train_steps=1200), further, rtol=1e-4)
  clipped = 0.25 * (alpha[1] * 0.75 + sigma[1] * eps)
  halve = lambda x0: 0.5 * x0
  np.testing.assert_allclose(run(clip=halve), clipped, rtol=1e-4)
  assert abs(run() - clipped) > 0.05 and abs(run() - further) > 0.05
