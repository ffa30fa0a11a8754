"""Moving digits, from nothing to scored samples, on two CPU cores in ten minutes.

Real handwritten digits fly over a small canvas and bounce off its walls. An
autoencoder learns the frames, a class-conditional transformer the clips of its
latents, and both are judged on handwriting that neither has seen.

python -m vdm_jax.main --config=configs/quickstart.py --workdir=runs/quickstart
python -m vdm_jax.main --config=configs/quickstart.py:tiny --workdir=runs/tiny
python -m vdm_jax.main --config=configs/quickstart.py:pretrained --workdir=runs/ready \
  --mode=sample
"""

from configs.parts import digits
from vdm_jax import config as c
from vdm_jax.diffusion import times
from vdm_jax.diffusion.samplers import heun

NETWORK = dict(out_channels=8, patch=4, num_heads=4, layout=("temporal",))
FULL = dict(steps=900, peak=1e-3, warmup=50, ema_decay=0.995)
# The network, its training, steps of the sampler, samples of each digit.
SIZES = {
  "full": dict(
    data="quick",
    network=NETWORK | dict(width=256, depth=8, unroll=8),
    training=FULL | dict(cadence=dict(save=400, preview=400)),
    num_steps=20,
    per_class=25,
  ),
  "tiny": dict(
    data="tiny",
    network=NETWORK | dict(width=32, depth=2, num_heads=2),
    training=FULL | digits.TINY | dict(steps=20),
    num_steps=2,
    per_class=2,
  ),
}


def get_config(arg="full"):
  """`arg`: "full"; "tiny" to see every stage work in a minute; "pretrained" to sample
  from the weights that come with the package, which configs/moving_digits.py trains.
  """
  c.check_variant("quickstart.py", arg, ("full", "pretrained", "tiny"))
  if arg == "pretrained":
    return pretrained()
  size = SIZES[arg]
  cfg = digits.base(size["data"])
  network = digits.transformer(**size["network"])
  cfg.guide = digits.guide(2.0, "label")
  digits.denoiser(
    cfg,
    network,
    digits.flow(network),
    sampler=c.bind(heun.heun),
    ts=c.bind(times.uniform_grid, num_steps=size["num_steps"]),
    wrappers=(cfg.guide,),
    per_class=size["per_class"],
    **size["training"],
  )
  return cfg


def pretrained():
  """Nothing is trained: the package's weights are sampled, and may be evaluated."""
  cfg = digits.base("quick", widths=digits.PACKAGED)
  digits.add_tokens(cfg)
  network = digits.transformer(**digits.PACKAGED_NETWORK)
  cfg.guide = digits.guide(1.5, "label")
  digits.denoiser(
    cfg,
    network,
    digits.flow(network),
    sampler=c.bind(heun.heun),
    ts=c.bind(times.uniform_grid, num_steps=20),
    wrappers=(cfg.guide,),
    weights=digits.packaged("denoiser"),
    decoder=digits.packaged_decoder(cfg),
    shape=digits.TOKEN_SHAPE,
    per_class=10,
    **SIZES["full"]["training"],
  )
  cfg.stages = ("prepare", "sample", "evaluate")
  return cfg
