"""Stable Video Diffusion: a clip from its first frame.

https://arxiv.org/abs/2311.15127. The first frame enters twice, as one token of CLIP's
image encoder and as its latent, stacked on every frame, which at full size is not
scaled to unit variance; `fps`, `motion` (the bucket, 127 in its demos: larger moves
more) and `augmentation` (noise in the first frame, 0.02) are numbers. EDM with noise up
to 700, v, guidance that rises over the frames. The published model was trained with
fps - 1: give it 6 for 7 frames a second. A tenth of the training clips are marked as
images, over which nothing is mixed. Its last training, on larger clips, had more noise:
--config.task.times.mean=1.0.

At full size give CLIP's image encoder (ViT-H/14) by --config.image_encoder=FOLDER: it
looks at the clips while they are encoded. In the small ones the token is the class. The
noise is added to the first frame's latent (theirs to its pixels).

python -m vdm_jax.main --config=configs/svd.py:digits --workdir=runs/svd
python -m vdm_jax.main --config=configs/svd.py:tiny --workdir=runs/tiny
"""

from configs.parts import digits, runs, unets
from vdm_jax import config as c
from vdm_jax.conditioners import conditioner
from vdm_jax.data import pictures
from vdm_jax.diffusion import guidance, perturbation, process, times
from vdm_jax.models.unet import architectures
from vdm_jax.tasks import latent_diffusion

NUMBERS = dict(fps=6.0, motion=127.0, augmentation=0.02, image_only=0.0)


def get_config(arg="full"):
  """`arg`: "full", "digits", or "tiny" to see every stage work in a minute."""
  c.check_variant("svd.py", arg, unets.SIZES)
  full = arg == "full"
  cfg = unets.base(arg)
  small = {} if full else dict(head_dim=4, joint_frequencies=32)
  network = unets.network(arg, architectures.svd, **small)
  numbers = c.call(conditioner.Numbers, names=tuple(NUMBERS), values=NUMBERS)
  if full:
    unets.embed_first_frames(cfg, shape=(1, 1024))
    cfg.latents = raw = c.replace(cfg.latents, raw_first_frame=True)
    picture = c.call(conditioner.Image, from_first_frame=True)
    both = c.call(conditioner.All, parts=(picture, numbers))
    signals = dict(conditioner=both, drop_rates=dict(image=0.1))
  else:
    picture = c.call(conditioner.Image, form="channels", from_first_frame=True)
    signals = unets.text(arg, picture, numbers, image=0.1)
  task = c.call(
    latent_diffusion.LatentDiffusion,
    network=network,
    process=c.call(process.EDM, t_max=700.0, sigma_data=1.0),
    prediction="v",
    times=c.bind(times.lognormal, mean=0.7, std=1.6),
    perturbation=c.call(perturbation.ImageNoiseAugmentation),
    **signals,
  )
  rising = c.bind(guidance.linear_over_frames, start=1.0, stop=2.5)
  flag = c.call(pictures.AddImageOnlyFlag, rate=0.1)
  cfg.latents = runs.transformed(cfg.latents, flag)
  unets.denoiser(
    cfg,
    arg,
    network,
    task,
    ts=c.bind(times.karras_grid, num_steps=2 if arg == "tiny" else 25),
    wrappers=(digits.guide(rising, *signals["drop_rates"]),),
    signals=unets.first_frames(10, raw) if full else unets.first_frames(20),
  )
  return cfg
