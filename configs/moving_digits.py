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

from configs.parts import digits, runs
from vdm_jax import config as c
from vdm_jax.data import sources
from vdm_jax.models.transformer import blocks
from vdm_jax.programs import export
from vdm_jax.tasks import autoencoding

FRAMES = digits.NETWORK | blocks.VARIANTS[1]
FRAMES |= dict(patch=2, width=128, modulation="shared", unroll=4)
TRAINING = dict(peak=1.5e-3, warmup=100, ema_decay=0.999)
TINY = digits.TINY_SYSTEM | dict(
  tokens=dict(width=32, depths=(1, 1)),
  tokenize=dict(measure_batches=4, cadence=dict(preview=1000)),  # there is none
)


def get_config(arg="full"):
  """`arg`: "full", "frames", or "tiny" to see every stage of the full one at work."""
  c.check_variant("moving_digits.py", arg, ("full", "frames", "tiny"))
  if arg == "frames":
    return frames()
  cfg = digits.base(**digits.CAREFUL)
  tokens = digits.add_tokens(cfg)
  tokenize(cfg)
  digits.transformer(
    cfg,
    digits.PACKAGED_NETWORK,
    scale=1.5,
    # More often at low noise, where a tenth of a pixel is decided.
    times_fields=dict(mean=-0.7, std=1.3),
    settings=TRAINING
    | dict(steps=8000, batch_size=512, cadence=dict(save=2000, preview=4000)),
    **tokens | dict(decoder=(cfg.stacked, dict(outer="autoencoder", inner="tokens"))),
  )
  cfg.export = c.bind(
    export.run,
    parts={
      "autoencoder": ("autoencoder", "ema/autoencoder"),
      "tokens": ("tokens", "ema/autoencoder"),
      "denoiser": ("denoiser", "ema"),
    },
    eight_bits="^(autoencoder/encoder|tokens|denoiser)/",
    max_bytes=4_000_000,
  )
  added = ("tokenize", "encode_tokens")
  cfg.stages = (*cfg.stages[:3], *added, *cfg.stages[3:], "export")
  return digits.tiny(cfg, TINY, tokenize=20) if arg == "tiny" else cfg


def tokenize(cfg):
  """Adds the training of a second autoencoder, and what it makes of the latents."""
  latents = c.call(sources.in_memory, source=digits.latents_as_videos())
  cfg.tokenizing = c.call(
    autoencoding.Autoencoding,
    autoencoder=cfg.tokens,
    softness=1.0,  # almost L2, for errors far below 1
    perceptual_weight=0.0,
    kl_weight=0.16,
  )
  cfg.tokenize = digits.training(
    "tokens",
    cfg.tokenizing,
    latents,
    steps=14_000,
    peak=2e-3,
    warmup=100,
    ema_decay=0.998,
    measure_batches=50,
  )
  parts = latents, cfg.tokens, "tokens"
  cfg.encode_tokens = runs.encoding(*parts, folder="clip_latents")
  cfg.latents = digits.records(digits.CLIP_LATENTS)


def frames(size="full"):
  """Latte, variant 1, on the latents of the frames."""
  cfg = digits.base(**digits.CAREFUL)
  settings = dict(steps=15_000, batch_size=32, cadence=dict(preview=5000))
  times_fields = dict(mean=-0.4, std=1.2)  # as above
  digits.transformer(
    cfg, FRAMES, scale=1.5, times_fields=times_fields, settings=TRAINING | settings
  )
  return digits.tiny(cfg, digits.TINY_SYSTEM) if size == "tiny" else cfg
