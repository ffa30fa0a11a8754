"""From an image model to a video model: five ways to add time, at equal size and steps.

A small image U-Net learns single frames of moving digits. It is then frozen, and layers
along time of five published systems, of about equal size, are trained in it for equally
many steps on equal batches. The autoencoder is the packaged one.

python -m vdm_jax.main --config=experiments/image_to_video_inflation/config.py \
  --workdir=runs/inflation
python -m vdm_jax.main --config=experiments/image_to_video_inflation/config.py:tiny \
  --workdir=runs/tiny
"""

import copy

from configs import moving_digits, quickstart
from configs import stable_diffusion as sd
from experiments.image_to_video_inflation import summary
from vdm_jax import config as c
from vdm_jax.conditioners import conditioner
from vdm_jax.data import loader, pictures, sources
from vdm_jax.diffusion.samplers import euler
from vdm_jax.models.unet import architectures, unet3d
from vdm_jax.models.unet.unet3d import TransformerConfig
from vdm_jax.pretrained.formats import native
from vdm_jax.training import inflate

FRAMES = dict(
  out_channels=8, channels=(32, 64), layers=1, attention=(True, True), groups=8
)
HEAD = 16  # features of a head
IMAGE_STEPS, STEPS, BATCH = 2500, 1500, 16
ALONE = "image model, frame by frame"


def along(*block, **fields):
  return dict(block=block, head_dim=HEAD, **fields)


ATTENTION, PERCEPTRON = "temporal_self", "feed_forward"
# label -> (suffix of its stages, fields of the network); a block has as many sublayers
# as make the arms equal in size.
ARMS = {
  "VideoLDM: shared by alpha": (
    "video_ldm",
    dict(
      temporal_resnet="alpha",
      temporal=along(
        ATTENTION,
        ATTENTION,
        PERCEPTRON,
        merge="alpha",
        position="sinusoid",
        max_frames=32,
      ),
    ),
  ),
  "SVD: within the transformers": (
    "svd",
    dict(
      temporal_resnet="alpha",
      temporal_at="inside",
      temporal=along(PERCEPTRON, ATTENTION, position="perceptron"),
    ),
  ),
  "VideoCrafter: convolution, attention": (
    "videocrafter",
    dict(
      temporal_resnet="four", temporal=along(ATTENTION, PERCEPTRON, norm_over="clip")
    ),
  ),
  "AnimateDiff: motion modules": (
    "animatediff",
    dict(
      temporal_at="levels and middle",
      temporal=along(
        *4 * (ATTENTION,),
        PERCEPTRON,
        position="sinusoid",
        max_frames=32,
        zero_init=True,
      ),
    ),
  ),
  "LVDM: 3-D convolution": ("lvdm", dict(temporal_resnet="volume")),
}


def get_config(arg="full"):
  """`arg`: "full", or "tiny" to see every stage work."""
  cfg = moving_digits.get_config("frames")
  if arg not in ("full", "tiny"):
    raise ValueError(f"inflation config.py:{arg} is unknown; there are full and tiny.")
  if arg == "tiny":
    quickstart.tiny(cfg)
  image_steps, steps = (IMAGE_STEPS, STEPS) if arg == "full" else (10, 10)
  cfg.autoencoder.update(channels=(24, 48), groups=8)
  packaged = c.call(native.packaged, name="moving_digits", part="autoencoder")
  stages = [cfg.encode, cfg.sample, cfg.evaluate]
  for stage, name in zip(
    stages, ("weights", *2 * ("autoencoder_weights",)), strict=True
  ):
    sd.put(stage, **{name: packaged})
  del cfg.train["preview"]
  told = c.call(conditioner.LabelTokens, num_classes=10)
  sd.put(cfg.task, conditioner=told, drop_rates=dict(text=0.1))
  sd.put(cfg.guide, drop=(("text",),), scales=(2.0,))
  sd.put(cfg.ts, num_steps=30 if arg == "full" else 2)
  sd.sampling(cfg, c.bind(euler.euler), cfg.ts)

  small = FRAMES if arg == "full" else FRAMES | dict(channels=(16,), attention=(True,))
  cfg.image = network(small, {})
  program = lambda suffix, net, steps, peak: arm(cfg, suffix, net, steps, peak)
  stages = {
    f"{k}_images": v for k, v in program("images", cfg.image, image_steps, 1e-3)
  }
  images = stages["train_images"]
  images.loader = c.call(
    loader.Loader,
    source=c.call(
      sources.Transformed,
      source=cfg.train.loader.source,
      transforms=(c.call(pictures.Still),),
    ),
    batch_size=8 * BATCH,
  )
  networks = {}
  for label, (suffix, fields) in ARMS.items():
    cfg[f"{suffix}_network"] = networks[label] = network(small, fields)
    parts = program(suffix, networks[label], steps, 1e-3)
    stages |= {f"{stage}_{suffix}": part for stage, part in parts}
    stages[f"train_{suffix}"].update(trainable="temporal")
    sd.put(
      stages[f"train_{suffix}"],
      init_from=c.bind(
        inflate.inflate, folder="{workdir}/images/checkpoints", parts=("ema",)
      ),
    )
  for name, stage in stages.items():
    cfg[name] = stage
  cfg.summary = c.bind(
    summary.run,
    arms={ALONE: "images"} | {label: suffix for label, (suffix, _) in ARMS.items()},
    tasks={"images": cfg.train_images.task}
    | {suffix: cfg[f"train_{suffix}"].task for suffix, _ in ARMS.values()},
    loader=cfg.train_lvdm.loader,
    real=cfg.evaluate.real,
  )
  cfg.stages = ("prepare", "encode", *stages, "summary")
  for unused in ("autoencode", "train", "sample", "evaluate"):
    del cfg[unused]
  return cfg


def network(small, fields):
  parts = {
    k: c.call(TransformerConfig, **v) if k == "temporal" else v
    for k, v in fields.items()
  }
  spatial = c.call(TransformerConfig, head_dim=HEAD)
  own = c.call(architectures.stable_diffusion, **small, spatial=spatial, **parts)
  return c.call(unet3d.UNet3D, config=own)


def arm(cfg, suffix, net, steps, peak):
  """(stage, its program) of one network: train, sample and evaluate."""
  part = copy.deepcopy(cfg)
  sd.put(part.task, network=net)
  part.train.update(folder=suffix, steps=steps, save_every=500, ema_decay=0.99)
  part.train.loader.batch_size = BATCH
  part.train.optimizer.learning_rate.update(peak=peak, steps=steps, warmup=steps // 30)
  sd.put(part.train, task=part.task)
  sd.put(part.sample, task=part.task, weights=suffix, folder=f"samples_{suffix}")
  part.evaluate.update(samples=f"samples_{suffix}", out=f"metrics_{suffix}.json")
  return [(stage, part[stage]) for stage in ("train", "sample", "evaluate")]
