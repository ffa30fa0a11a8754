"""Moving digits with care: small networks, trained until they write as people do.

The quickstart's data with more clips, an autoencoder of 36 dB, and Latte, variant 1, of
1.75 M parameters: samples are read 99.6 % right (real clips 98.8 %) and do not yet fly
straight, see experiments/moving_digits. Both networks come with the package, in half
precision, the encoder in 8 bits: configs/quickstart.py:pretrained samples from them.

python -m vdm_jax.main --config=configs/moving_digits.py --workdir=runs/moving_digits
python -m vdm_jax.main --config=configs/moving_digits.py:tiny --workdir=runs/tiny
"""

from configs import quickstart
from vdm_jax import config as c
from vdm_jax.programs import export


def get_config(arg="full"):
  """`arg`: "full", or "tiny" to see every stage work in a minute."""
  if arg not in ("full", "tiny"):
    raise ValueError(f"moving_digits.py:{arg} is unknown; there are full and tiny.")
  cfg = quickstart.packaged_networks(quickstart.get_config())
  cfg.stages = (*cfg.stages, "export")
  cfg.dataset.train_clips = 20_000

  cfg.autoencode.update(steps=2000, save_every=1000)
  cfg.autoencode.optimizer.learning_rate.steps = 2000

  cfg.train.update(steps=15_000, ema_decay=0.999, save_every=1000, preview_every=5000)
  cfg.train.loader.batch_size = 32
  cfg.train.optimizer.learning_rate.update(peak=1.5e-3, steps=15_000, warmup=100)

  cfg.export = c.bind(
    export.run,
    parts={
      "autoencoder": ("autoencoder", "ema/autoencoder"),
      "denoiser": ("denoiser", "ema"),
    },
    eight_bits="^autoencoder/encoder/",  # what samples are made of keeps 16
    largest=4_000_000,
  )
  return quickstart.tiny(cfg) if arg == "tiny" else cfg
