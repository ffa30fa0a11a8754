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

TRAINING = dict(
  steps=900, peak=1e-3, warmup=50, ema_decay=0.995, cadence=dict(save=400, preview=400)
)


def get_config(arg="full"):
  """`arg`: "full"; "tiny" to see every stage work in a minute; "pretrained" to sample
  from the weights that come with the package, which configs/moving_digits.py trains.
  """
  c.check_variant("quickstart.py", arg, ("full", "pretrained", "tiny"))
  if arg == "pretrained":
    return pretrained()
  cfg = digits.base()
  digits.transformer(cfg, digits.NETWORK, scale=2.0, settings=TRAINING)
  return digits.tiny(cfg, digits.TINY_SYSTEM) if arg == "tiny" else cfg


def pretrained():
  """Nothing is trained: the package's weights are sampled, and may be evaluated."""
  cfg = digits.base(channels=digits.CHANNELS)
  ready = dict(weights=digits.packaged("denoiser"), **digits.add_tokens(cfg))
  network = digits.PACKAGED_NETWORK
  digits.transformer(cfg, network, scale=1.5, settings=TRAINING, **ready)
  cfg.sample.signals.per_class = 10
  cfg.stages = ("prepare", "sample", "evaluate")
  return cfg
