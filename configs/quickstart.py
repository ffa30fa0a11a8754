"""Moving digits, from nothing to scored samples, on two CPU cores in ten minutes.

Real handwritten digits fly over a small canvas and bounce off its walls. An
autoencoder learns the frames, a class-conditional transformer the clips of its
latents, and both are judged on handwriting that neither has seen.

python -m vdm_jax.main --config=configs/quickstart.py --workdir=runs/quickstart
python -m vdm_jax.main --config=configs/quickstart.py:tiny --workdir=runs/tiny
python -m vdm_jax.main --config=configs/quickstart.py:pretrained --workdir=runs/ready \
  --mode=sample
"""

from ml_collections import ConfigDict

from vdm_jax import config as c
from vdm_jax.autoencoders import clip_tokens, kl_image, stacked
from vdm_jax.conditioners import conditioner
from vdm_jax.data import loader, sources
from vdm_jax.diffusion import guidance, process, times
from vdm_jax.diffusion.samplers import heun
from vdm_jax.metrics import frames, temporal, wavelets
from vdm_jax.models.transformer import video_dit
from vdm_jax.pretrained.formats import native
from vdm_jax.programs import encode, evaluate, prepare, sample, train
from vdm_jax.tasks import autoencoding, latent_diffusion
from vdm_jax.training import optimizer
from vdm_jax.worlds.moving_digits import builder as moving_digits
from vdm_jax.worlds.moving_digits import reader


def get_config(arg="full"):
  """`arg`: "full"; "tiny" to see every stage work in a minute; "pretrained" to sample
  from the weights that come with the package, which configs/moving_digits.py trains.
  """
  if arg not in VARIANTS:
    raise ValueError(
      f"quickstart.py:{arg} is unknown; there are full, pretrained and tiny."
    )
  cfg = ConfigDict()
  cfg.seed = 0
  cfg.mesh = dict(data=-1, fsdp=1, seq=1, tensor=1)
  cfg.rules = (("batch", ("data", "fsdp")), ("embed", "fsdp"), ("mlp", "tensor"))
  cfg.stages = ("prepare", "autoencode", "encode", "train", "sample", "evaluate")

  cfg.dataset = c.call(
    moving_digits.build,
    data_dir="{workdir}/data",
    canvas=16,
    num_frames=8,
    train_clips=12_000,
    test_clips=1_000,
  )
  train_split, test_split = (
    c.call(sources.in_memory, source=c.call(sources.Tfds, builder=cfg.dataset, split=s))
    for s in ("train", "test")
  )
  cfg.prepare = c.bind(prepare.run, builder=cfg.dataset)

  # Few and narrow convolutions: 16 x 16 x 3 pixels become 4 x 4 x 8 latents.
  cfg.autoencoder = c.call(
    kl_image.KLImage,
    channels=(16, 32),
    patch=2,
    layers_per_block=1,
    groups=8,
    latent_channels=8,
    mid_layers=1,
    mid_attention=False,
  )
  # A soft L1: the plain one is content with the black that most of a frame is.
  cfg.autoencoding = c.call(
    autoencoding.Autoencoding,
    autoencoder=cfg.autoencoder,
    softness=0.3,
    perceptual=c.bind(wavelets.distance, softness=0.3),
    kl_weight=1e-5,
    frames_per_clip=2,
  )
  cfg.autoencode = c.bind(
    train.run,
    folder="autoencoder",
    task=cfg.autoencoding,
    loader=c.call(loader.Loader, source=train_split, batch_size=64),
    optimizer=c.call(
      optimizer.adamw,
      learning_rate=c.call(optimizer.cosine, peak=4e-3, steps=600, warmup=20),
      b2=0.95,
    ),
    steps=600,
    ema_decay=0.98,
    save_every=300,
    measure_batches=20,
    preview=c.bind(sample.reconstructions, task=cfg.autoencoding, source=test_split),
    plot=("l1", "perceptual"),
  )
  cfg.encode = c.bind(
    encode.run,
    source=train_split,
    autoencoder=cfg.autoencoder,
    weights="autoencoder",
    batch_size=500,
  )

  cfg.network = c.call(
    video_dit.VideoDiT,
    out_channels=8,
    patch=4,
    width=256,
    depth=8,
    num_heads=4,
    num_classes=10,
    layout=("temporal",),
    unroll=8,
  )
  cfg.task = c.call(
    latent_diffusion.LatentDiffusion,
    network=cfg.network,
    process=c.call(process.Flow),
    prediction="velocity",
    conditioner=c.call(conditioner.Labels, num_classes=10),
    times=c.bind(times.logit_normal),
    drop_rates=dict(label=0.1),
  )
  cfg.sampler = c.bind(heun.heun)
  cfg.ts = c.bind(times.uniform_grid, num_steps=20)
  cfg.guide = c.bind(guidance.guide, drop=(("label",),), scales=(2.0,))
  drawing = dict(
    task=cfg.task,
    autoencoder=cfg.autoencoder,
    autoencoder_weights="autoencoder",
    shape=(8, 4, 4, 8),
    sampler=cfg.sampler,
    ts=cfg.ts,
    wrappers=(cfg.guide,),
  )
  cfg.train = c.bind(
    train.run,
    folder="denoiser",
    task=cfg.task,
    loader=c.call(
      loader.Loader,
      source=c.call(
        sources.in_memory, source=c.call(sources.RecordFolder, path="{workdir}/latents")
      ),
      batch_size=64,
    ),
    optimizer=c.call(
      optimizer.adamw,
      learning_rate=c.call(optimizer.cosine, peak=1e-3, steps=900, warmup=50),
      b2=0.99,
      weight_decay=0.01,
    ),
    steps=900,
    ema_decay=0.995,
    save_every=400,
    preview=c.call(
      sample.Preview,
      signals=c.bind(sample.classes, num_classes=10, per_class=1),
      **drawing,
    ),
    preview_every=400,
  )
  cfg.sample = c.bind(
    sample.run,
    weights="denoiser",
    signals=c.bind(sample.classes, num_classes=10, per_class=25),
    fps=8,
    scale=4,
    **drawing,
  )
  cfg.evaluate = c.bind(
    evaluate.run,
    real=test_split,
    train=train_split,
    metrics=(c.bind(reader.rows), c.bind(temporal.rows), c.bind(frames.rows)),
    autoencoder=cfg.autoencoder,
    autoencoder_weights="autoencoder",
  )
  return VARIANTS[arg](cfg)


def packaged_networks(cfg):
  """The config with the three networks whose weights the package carries.

  A second autoencoder makes one token of the eight frames' latents: 24 numbers for a
  clip, few enough that almost all of them are a digit and a straight flight.
  """
  cfg.autoencoder.channels = (24, 48)
  cfg.tokens = c.call(
    clip_tokens.ClipTokens,
    window=(8, 4, 4),
    patch=(1, 4, 4),
    num_tokens=1,
    latent_channels=24,
    pixel_channels=8,
    width=160,
    depths=(3, 4),
  )
  cfg.stacked = c.call(stacked.Stacked, outer=cfg.autoencoder, inner=cfg.tokens)
  cfg.network.update(out_channels=24, patch=1, width=128, depth=5, unroll=5)
  cfg.network.modulation = "shared"
  for stage in (cfg.train.preview, cfg.sample):
    stage.autoencoder, stage.shape = cfg.stacked, (1, 1, 1, 24)
  cfg.evaluate.autoencoder = cfg.stacked
  cfg.guide.scales = (1.5,)
  return cfg


def pretrained(cfg):
  """Nothing is trained: the package's weights are sampled, and may be evaluated."""
  packaged_networks(cfg)
  weights = lambda part: c.call(native.packaged, name="moving_digits", part=part)
  with cfg.ignore_type():  # arrays stand in the place of a folder's name
    for stage in ("sample", "evaluate"):
      cfg[stage].autoencoder_weights = dict(
        outer=weights("autoencoder"), inner=weights("tokens")
      )
    cfg.sample.weights = weights("denoiser")
  cfg.sample.signals.per_class = 10
  cfg.stages = ("prepare", "sample", "evaluate")
  return cfg


def tiny(cfg):
  """The same stages with little data, small networks and few steps."""
  cfg.dataset.update(train_clips=400, test_clips=200)
  cfg.autoencoder.update(channels=(8, 8), groups=4)
  cfg.network.update(width=32, depth=2, num_heads=2, unroll=1)
  cfg.ts.num_steps = 2
  for stage, steps in (("autoencode", 30), ("train", 20)):
    cfg[stage].loader.batch_size = 16
    cfg[stage].optimizer.learning_rate.update(steps=steps, warmup=5)
    cfg[stage].update(steps=steps, log_every=5, save_every=10, preview_every=20)
  cfg.autoencode.measure_batches = 4
  cfg.sample.signals.per_class = 2
  return cfg


VARIANTS = {"full": lambda cfg: cfg, "pretrained": pretrained, "tiny": tiny}
