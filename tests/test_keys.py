"""A video with a key of its own is the same in every batch and on every device."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from tests.support import suite
from vdm_jax import keys, sharding
from vdm_jax.conditioning import Conditioning
from vdm_jax.diffusion import denoise as d
from vdm_jax.diffusion import guidance, long_video, noise, perturbation, process, times
from vdm_jax.diffusion.samplers import ancestral, ddim, dpm_solver, loop

pytestmark = pytest.mark.usefixtures("unoptimized")
KEY = jax.random.key(3)
SHAPE = (4, 6, 2, 2, 1)
DDPM = process.DDPM()
TS = times.uniform_grid(DDPM, num_steps=3)


def drawn_from(sampler, wrap=lambda denoise, null: denoise):
  """(keys [B]) -> the samples of a denoiser that shrinks, [B, T, H, W, C]."""

  def denoise(x, t, cond):
    return d.Denoised(x0=0.3 * x)

  def sample(own):
    k_noise, k_steps = keys.split(own)
    x = loop.noise_by_frame(k_noise, (len(own), *SHAPE[1:]))
    return sampler(wrap(denoise, None), DDPM, x, TS, None, k_steps)

  return sample


rolled = dict(sampler=functools.partial(ddim.ddim, eta=1.0))
rolled |= dict(plan=functools.partial(long_video.extension_plan, window=4, overlap=2))
DRAWS = {
  "ancestral": drawn_from(ancestral.ancestral),
  "ddim": drawn_from(rolled["sampler"]),
  "dpm_solver": drawn_from(dpm_solver.dpm_solver_sde),
  "rollout": drawn_from(
    functools.partial(long_video.rollout, **rolled, known_wrapper=d.replace_known)
  ),
  "free_init": drawn_from(functools.partial(noise.free_init, sampler=ddim.ddim)),
  "mixed": lambda own: noise.mixed(own, (len(own), *SHAPE[1:]), fraction=0.5),
  "free_noise": lambda own: noise.free_noise(
    own, (len(own), *SHAPE[1:]), window=4, stride=2
  ),
  "perturbed": lambda own: (
    perturbation.KnownFrameNoise()
    .perturb_sampling_cond(
      DDPM, own, Conditioning(known=jnp.zeros((len(own), *SHAPE[1:])))
    )
    .known_noise
  ),
}


@pytest.mark.parametrize(
  "name", suite.choose(DRAWS, "ancestral", "free_noise", "perturbed")
)
def test_a_video_is_the_same_alone_and_in_any_batch(name):
  draw = DRAWS[name]
  own = keys.per_video(KEY, range(4))
  if name == "ancestral":
    mesh = sharding.make_mesh({"data": -1})
    own = jax.device_put(own, NamedSharding(mesh, PartitionSpec("data")))
    assert mesh.size == 2
  whole, alone = jax.jit(lambda k, one: (draw(k), draw(one)))(own, own[2:3])
  np.testing.assert_allclose(whole[2:3], alone, atol=1e-5)
  assert np.abs(np.diff(whole, axis=0)).max((1, 2, 3, 4)).min() > 0.1


def test_frames_that_guidance_noises_are_noised_alike_in_every_video():
  seen = []

  def denoise(x, t, cond):
    seen.append(x)
    return d.Denoised(x0=x)

  guide = functools.partial(guidance.known_frames_cfg, process=DDPM, scale=2.0)
  mask = jnp.ones((3, 6, 1, 1, 1), bool)
  zeros = jnp.zeros((3, *SHAPE[1:]))
  cond = Conditioning(known=zeros, mask=mask)
  guide(denoise, None)(zeros, jnp.full((3, 6), 500.0), cond)
  noised = np.asarray(seen[0])[1::2]
  assert noised.std() > 0.1 and np.array_equal(noised, noised[:1].repeat(3, axis=0))


def test_keys_are_jax_random_s_for_each_video():
  own = keys.per_video(KEY, [5, 7])
  data = lambda key: jax.random.key_data(key).tolist()
  one = jax.random.fold_in(KEY, 7)
  assert data(own[1]) == data(one) and keys.per_video(own, range(2)) is own
  assert data(keys.fold_in(own, 3)[1]) == data(jax.random.fold_in(one, 3))
  assert data(keys.split(own, 3)[2][1]) == data(jax.random.split(one, 3)[2])
  wanted = jax.random.normal(one, (3,))
  np.testing.assert_array_equal(keys.normal(own, (2, 3))[1], wanted)
  with pytest.raises(ValueError, match="2,.* for 3 videos"):
    keys.per_video(own, range(3))
