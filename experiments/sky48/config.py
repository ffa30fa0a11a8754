"""48 real clips of the sky at 128 x 128: what 40 of them and two CPU cores can show.

Forty clips train a per-frame autoencoder and an unconditional Latte, variant 1; every
sixth, eight in all, is held out to measure the reconstructions on. The clips are tiles
of one video, which --config.data names.

python -m vdm_jax.main --config=experiments/sky48/config.py \
  --config.data=sky_timelapse_48.mp4 --workdir=runs/sky48
python -m vdm_jax.main --config=experiments/sky48/config.py:tiny \
  --config.data=sky_timelapse_48.mp4 --workdir=runs/sky48_tiny
"""

from ml_collections import ConfigDict

from configs.parts import runs
from vdm_jax import config as c
from vdm_jax.autoencoders import kl_image
from vdm_jax.conditioners import conditioner
from vdm_jax.data import crops, loader, sources, tiles, transforms
from vdm_jax.diffusion import long_video, process, times
from vdm_jax.diffusion.samplers import heun
from vdm_jax.metrics import nearest, temporal
from vdm_jax.models.transformer import video_dit
from vdm_jax.programs import encode, evaluate, reconstruct, sample, train
from vdm_jax.tasks import autoencoding, latent_diffusion
from vdm_jax.tasks.generator import Generator
from vdm_jax.training import loop, optimizer

# No held-out tile shows the scene of another one, as 4 and 9, 11 and 19, 15 and 23 do.
HELD_OUT = tuple(range(0, 48, 6))
TRAIN = tuple(n for n in range(48) if n not in HELD_OUT)


def get_config(arg="full"):
  """`arg`: "full", or "tiny" to see every stage work in a minute."""
  c.check_variant("sky48 config.py", arg, ("full", "tiny"))
  cfg = ConfigDict()
  cfg.seed = 0
  cfg.mesh = runs.MESH
  cfg.rules = runs.SMALL_RULES
  cfg.stages = (
    "autoencode",
    "reconstruct",
    "encode",
    "train",
    "sample",
    "evaluate",
    "extend",
    "evaluate_extended",
  )

  cfg.data = "sky_timelapse_48.mp4"
  train_split, held_out = (
    c.call(
      tiles.VideoTileSource,
      path=cfg.get_ref("data"),
      rows=6,
      columns=8,
      size=128,
      margin=2,
      gap=2,
      indices=numbers,
    )
    for numbers in (TRAIN, HELD_OUT)
  )

  # Squares of 4 x 4 pixels at the door: 128 x 128 x 3 become 16 x 16 x 6 latents.
  cfg.autoencoder = c.call(
    kl_image.KLImage,
    channels=(64, 128),
    patch=4,
    layers_per_block=1,
    groups=8,
    latent_channels=6,
    mid_layers=1,
    mid_attention=False,
  )
  cfg.autoencoding = c.call(autoencoding.Autoencoding, autoencoder=cfg.autoencoder)
  # A frame of a clip, a quarter of the frame: many scenes in one batch.
  steps = c.shared(3500)  # of the training and of its schedule
  cfg.autoencode = c.bind(
    train.run,
    folder="autoencoder",
    task=cfg.autoencoding,
    loader=c.call(
      loader.Loader,
      source=train_split,
      batch_size=16,
      transforms=(
        c.call(crops.TemporalRandomCrop, num_frames=1),
        c.call(crops.RandomCrop, size=64),
        c.call(transforms.RandomFlip),
      ),
    ),
    optimizer=c.call(
      optimizer.adamw,
      learning_rate=c.call(optimizer.cosine, peak=2e-3, steps=steps, warmup=50),
      b2=0.95,
    ),
    steps=steps,
    ema_decay=0.995,
    cadence=c.call(loop.Cadence, save=500, preview=1750),
    measure_batches=100,
    preview=c.bind(
      sample.reconstruction_preview,
      task=cfg.autoencoding,
      source=c.call(
        sources.Transformed,
        source=held_out,
        transforms=(c.call(transforms.SampleFrames, num_frames=2, start="first"),),
      ),
      count=2,
    ),
    plot=("l1", "perceptual"),
  )
  cfg.reconstruct = c.bind(
    reconstruct.reconstruct_and_score,
    task=cfg.autoencoding,
    weights="autoencoder",
    source=held_out,
    batch_size=1,
  )
  # Every other frame, for clouds are slow: 16 frames of each clip.
  thinned = c.call(transforms.SampleFrames, num_frames=16, interval=2, start="first")
  train_clips, held_out_clips = (
    c.call(sources.Transformed, source=split, transforms=(thinned,))
    for split in (train_split, held_out)
  )
  cfg.encode = c.bind(
    encode.run,
    source=train_clips,
    autoencoder=cfg.autoencoder,
    weights="autoencoder",
    batch_size=4,
  )

  # Given frames in some of the clips, so that the network can also go on from some.
  cfg.network = c.call(
    video_dit.VideoDiT,
    out_channels=6,
    patch=4,
    width=192,
    depth=8,
    num_heads=4,
    modulation="shared",
    unroll=4,
    dtype="float32",
  )
  cfg.task = c.call(
    latent_diffusion.LatentDiffusion,
    network=cfg.network,
    process=c.call(process.Flow),
    prediction="velocity",
    conditioner=c.call(conditioner.Unconditional),
    # Eight frames of slow clouds say the same thing eight times, and neighbours in a
    # sky do: what it shows is decided at far more noise than in a single latent.
    times=c.bind(times.shifted, base=c.bind(times.uniform), shift=6.0),
    mask_rates={"first:4": 0.3},
  )
  steps = c.shared(2000)
  cfg.train = c.bind(
    train.run,
    folder="denoiser",
    task=cfg.task,
    loader=c.call(
      loader.Loader,
      source=c.call(
        sources.in_memory, source=c.call(sources.RecordFolder, path="{workdir}/latents")
      ),
      batch_size=16,
      transforms=(c.call(crops.TemporalRandomCrop, num_frames=8),),
    ),
    optimizer=c.call(
      optimizer.adamw,
      learning_rate=c.call(optimizer.cosine, peak=1.5e-3, steps=steps, warmup=50),
      b2=0.99,
      weight_decay=0.01,
    ),
    steps=steps,
    ema_decay=0.995,
    cadence=c.call(loop.Cadence, save=400),
  )
  cfg.sampler = c.bind(heun.heun)
  cfg.ts = c.bind(times.shifted_grid, num_steps=25, shift=6.0)
  cfg.generator = c.call(
    Generator,
    task=cfg.task,
    weights="denoiser",
    autoencoder=cfg.autoencoder,
    autoencoder_weights="autoencoder",
    shape=(8, 16, 16, 6),
    sampler=cfg.sampler,
    ts=cfg.ts,
  )
  files = dict(batch_size=4, grid_columns=4)
  cfg.sample = c.bind(
    sample.run,
    generator=cfg.generator,
    signals=c.bind(sample.unconditional_signals, count=16),
    **files,
  )
  first = c.call(transforms.SampleFrames, num_frames=8, start="first")
  cfg.evaluate = c.bind(
    evaluate.run,
    real=c.call(sources.Transformed, source=held_out_clips, transforms=(first,)),
    train=train_clips,
    metrics=(
      c.bind(temporal.motion_score_rows),
      c.bind(nearest.memorization_score_rows),
    ),
    stride=2,
  )

  # Four times as long: 8 new frames, then 4 at a time behind the last 4.
  plan = dict(window=8, overlap=4)
  rollout = c.bind(
    long_video.rollout,
    sampler=cfg.sampler,
    plan=c.bind(long_video.extension_plan, **plan),
  )
  cfg.extend = c.bind(
    sample.run,
    generator=c.replace(cfg.generator, shape=(32, 16, 16, 6), sampler=rollout),
    signals=c.bind(sample.unconditional_signals, count=8),
    folder="extended",
    **files,
  )
  cfg.evaluate_extended = c.bind(
    evaluate.run,
    samples="extended",
    real=held_out_clips,
    train=train_clips,
    metrics=(c.bind(temporal.long_video_score_rows, **plan),),
    out="extended.json",
    stride=2,
  )
  return tiny(cfg) if arg == "tiny" else cfg


def tiny(cfg):
  """The same stages with small networks and few steps."""
  cfg.autoencoder.update(channels=(8, 8), patch=8, groups=4)
  cfg.network.update(width=32, depth=2, num_heads=2, patch=4, unroll=1)
  cfg.ts.num_steps = 2
  for stage, steps in (("autoencode", 20), ("train", 10)):
    cfg[stage].loader.batch_size = 4
    cfg[stage].optimizer.learning_rate.update(steps=steps, warmup=5)
    cfg[stage].steps = steps
    cfg[stage].cadence.update(log=5, save=10, preview=20)
  cfg.autoencode.measure_batches = 4
  for stage, frames in (("sample", 8), ("extend", 32)):
    cfg[stage].generator.shape = (frames, 8, 8, 6)
    cfg[stage].signals.count = 4
  return cfg
