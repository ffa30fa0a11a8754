"""Moving digits with care: small networks, trained until they write and fly.

The quickstart's data with more clips, an autoencoder of the frames of 36 dB, a second
one that makes one token of a clip's latents, and a denoiser of this token. Samples are
read 99.6 % right (real clips 98.8 %) and are 0.047 pixels off a straight flight (real
clips 0.028), see experiments/moving_digits. The weights come with the package:
configs/quickstart.py:pretrained samples from them.

With "frames" there is no second autoencoder: Latte, variant 1, on the frames' latents,
as the arms of experiments/moving_digits and experiments/one_model_many_tasks use it.

python -m vdm_jax.main --config=configs/moving_digits.py --workdir=runs/moving_digits
python -m vdm_jax.main --config=configs/moving_digits.py:frames --workdir=runs/frames
python -m vdm_jax.main --config=configs/moving_digits.py:tiny --workdir=runs/tiny
"""

from configs.parts import digits
from vdm_jax import config as c
from vdm_jax.data import sources, transforms
from vdm_jax.diffusion import times
from vdm_jax.diffusion.samplers import heun
from vdm_jax.models.transformer import blocks
from vdm_jax.programs import encode, export
from vdm_jax.tasks import autoencoding

FRAMES = dict(
  out_channels=8,
  patch=2,
  width=128,
  depth=8,
  num_heads=4,
  unroll=4,
  modulation="shared",
  **blocks.VARIANTS[1],
)
FULL = dict(peak=1.5e-3, warmup=100, ema_decay=0.999)
SMALL = dict(width=32, depth=2, num_heads=2, unroll=1)
# The networks and their trainings, steps of the sampler, samples of each digit.
SIZES = {
  "full": dict(
    tokens={},
    tokenizing=dict(steps=14_000, warmup=100, measure_batches=50),
    network=digits.PACKAGED_NETWORK,
    training=FULL
    | dict(steps=8000, batch_size=512, cadence=dict(save=2000, preview=4000)),
    num_steps=20,
    per_class=25,
  ),
  "tiny": dict(
    tokens=dict(width=32, depths=(1, 1)),
    tokenizing=dict(steps=20, warmup=5, batch_size=16, measure_batches=4)
    | dict(cadence=dict(log=5, save=10)),
    network=digits.PACKAGED_NETWORK | SMALL,
    training=FULL | digits.TINY | dict(steps=20),
    num_steps=2,
    per_class=2,
  ),
}
FRAMES_TRAINING = dict(steps=15_000, batch_size=32, cadence=dict(preview=5000))


def get_config(arg="full"):
  """`arg`: "full", "frames", or "tiny" to see every stage of the full one at work."""
  c.check_variant("moving_digits.py", arg, ("full", "frames", "tiny"))
  if arg == "frames":
    return frames("full")
  size = SIZES[arg]
  cfg = digits.base(arg, widths=None if arg == "tiny" else digits.PACKAGED)
  digits.add_tokens(cfg, **size["tokens"])
  tokenize(cfg, size["tokenizing"])
  network = digits.transformer(**size["network"])
  cfg.guide = digits.guide(1.5, "label")
  cfg.latents = digits.records("{workdir}/clip_latents")
  digits.denoiser(
    cfg,
    network,
    # More often at low noise, where a tenth of a pixel is decided.
    digits.flow(network, mean=-0.7, std=1.3),
    sampler=c.bind(heun.heun),
    ts=c.bind(times.uniform_grid, num_steps=size["num_steps"]),
    wrappers=(cfg.guide,),
    decoder=(cfg.stacked, dict(outer="autoencoder", inner="tokens")),
    shape=digits.TOKEN_SHAPE,
    per_class=size["per_class"],
    **size["training"],
  )
  cfg.export = c.bind(
    export.run,
    parts={
      "autoencoder": ("autoencoder", "ema/autoencoder"),
      "tokens": ("tokens", "ema/autoencoder"),
      "denoiser": ("denoiser", "ema"),
    },
    eight_bits="^(autoencoder/encoder|tokens|denoiser)/",
    largest=4_000_000,
  )
  added = ("tokenize", "encode_tokens")
  cfg.stages = (*cfg.stages[:3], *added, *cfg.stages[3:], "export")
  return cfg


def tokenize(cfg, settings):
  """Adds the training of a second autoencoder, and what it makes of the latents."""
  latents = c.call(
    sources.in_memory,
    source=c.call(
      sources.Transformed,
      source=c.call(sources.RecordFolder, path=digits.LATENTS),
      transforms=(c.call(transforms.LatentsAsVideo),),
    ),
  )
  cfg.tokenizing = c.call(
    autoencoding.Autoencoding,
    autoencoder=cfg.tokens,
    softness=1.0,  # almost L2, for errors far below 1
    perceptual_weight=0.0,
    kl_weight=0.16,
  )
  fixed = dict(peak=2e-3, ema_decay=0.998, plot=("loss",))
  cfg.tokenize = digits.training("tokens", cfg.tokenizing, latents, **fixed, **settings)
  cfg.encode_tokens = c.bind(
    encode.run,
    source=latents,
    autoencoder=cfg.tokens,
    weights="tokens",
    batch_size=500,
    folder="clip_latents",
  )


def frames(size, **fields):
  """Latte, variant 1, on the latents of the frames; `fields` of the data set."""
  small = size == "tiny"
  cfg = digits.base(size, **fields)
  network = digits.transformer(**FRAMES | (SMALL if small else {}))
  cfg.guide = digits.guide(1.5, "label")
  training = digits.TINY | dict(steps=20) if small else FRAMES_TRAINING
  digits.denoiser(
    cfg,
    network,
    digits.flow(network, mean=-0.4, std=1.2),
    sampler=c.bind(heun.heun),
    ts=c.bind(times.uniform_grid, num_steps=2 if small else 20),
    wrappers=(cfg.guide,),
    per_class=2 if small else 25,
    **FULL | training,
  )
  return cfg
