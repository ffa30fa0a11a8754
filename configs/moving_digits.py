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

from configs import quickstart
from vdm_jax import config as c
from vdm_jax.data import loader, sources, transforms
from vdm_jax.models.transformer import blocks
from vdm_jax.programs import encode, export, train
from vdm_jax.tasks import autoencoding
from vdm_jax.training import optimizer


def get_config(arg="full"):
  """`arg`: "full", "frames", or "tiny" to see every stage of the full one at work."""
  if arg not in ("full", "frames", "tiny"):
    raise ValueError(
      f"moving_digits.py:{arg} is unknown; there are full, frames and tiny."
    )
  cfg = quickstart.get_config()
  cfg.dataset.train_clips = 20_000
  cfg.autoencoder.channels = (24, 48)
  cfg.autoencode.update(steps=2000, save_every=1000)
  cfg.autoencode.optimizer.learning_rate.steps = 2000
  cfg.guide.scales = (1.5,)
  cfg.train.update(ema_decay=0.999, save_every=1000, preview_every=5000)
  cfg.train.optimizer.learning_rate.warmup = 100
  if arg == "frames":
    return frames(cfg)
  tokens(quickstart.packaged_networks(cfg))
  if arg == "tiny":
    quickstart.tiny(cfg)
    cfg.tokens.update(width=32, depths=(1, 1))
    cfg.tokenize.update(steps=20, log_every=5, save_every=10, measure_batches=4)
    cfg.tokenize.optimizer.learning_rate.update(steps=20, warmup=5)
    cfg.tokenize.loader.batch_size = 16
  return cfg


def frames(cfg):
  """Latte, variant 1, on the latents of the frames."""
  cfg.network.update(
    patch=2, width=128, modulation="shared", unroll=4, **blocks.VARIANTS[1]
  )
  # More often at low noise, where a tenth of a pixel is decided.
  cfg.task.times.update(mean=-0.4, std=1.2)
  cfg.train.steps = 15_000
  cfg.train.loader.batch_size = 32
  cfg.train.optimizer.learning_rate.update(peak=1.5e-3, steps=15_000)
  return cfg


def tokens(cfg):
  """A second autoencoder between the frames' latents and the denoiser."""
  latents = c.call(
    sources.in_memory,
    source=c.call(
      sources.Transformed,
      source=c.call(sources.RecordFolder, path="{workdir}/latents"),
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
  cfg.tokenize = c.bind(
    train.run,
    folder="tokens",
    task=cfg.tokenizing,
    loader=c.call(loader.Loader, source=latents, batch_size=64),
    optimizer=c.call(
      optimizer.adamw,
      learning_rate=c.call(optimizer.cosine, peak=2e-3, steps=14_000, warmup=100),
      b2=0.99,
      weight_decay=0.01,
    ),
    steps=14_000,
    ema_decay=0.998,
    save_every=1000,
    measure_batches=50,
    plot=("loss",),
  )
  cfg.encode_tokens = c.bind(
    encode.run,
    source=latents,
    autoencoder=cfg.tokens,
    weights="tokens",
    batch_size=500,
    folder="clip_latents",
  )
  cfg.train.loader.source.source.path = "{workdir}/clip_latents"
  cfg.train.update(steps=8000, save_every=2000, preview_every=4000)
  cfg.train.loader.batch_size = 512
  cfg.train.optimizer.learning_rate.update(peak=1.5e-3, steps=8000)
  # More often at low noise, where a tenth of a pixel is decided.
  cfg.task.times.update(mean=-0.7, std=1.3)
  places = dict(outer="autoencoder", inner="tokens")
  with cfg.ignore_type():
    for stage in (cfg.train.preview, cfg.sample, cfg.evaluate):
      stage.autoencoder_weights = places

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
