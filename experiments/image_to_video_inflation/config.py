"""From an image model to a video model: five ways to add time, at equal size and steps.

A small image U-Net learns single frames of moving digits. It is then frozen, and layers
along time of five published systems, of about equal size, are trained in it for equally
many steps on equal batches. The autoencoder is the packaged one.

python -m vdm_jax.main --config=experiments/image_to_video_inflation/config.py \
  --workdir=runs/inflation
python -m vdm_jax.main --config=experiments/image_to_video_inflation/config.py:tiny \
  --workdir=runs/tiny
"""

from configs import moving_digits
from configs.parts import digits, runs, unets
from experiments.image_to_video_inflation import summary
from vdm_jax import config as c
from vdm_jax.conditioners import conditioner
from vdm_jax.diffusion import times
from vdm_jax.diffusion.samplers import euler
from vdm_jax.models.unet import architectures, unet3d
from vdm_jax.models.unet.unet3d import TransformerConfig

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
  c.check_variant("inflation config.py", arg, ("full", "tiny"))
  full = arg == "full"
  image_steps, steps = (IMAGE_STEPS, STEPS) if full else (10, 10)
  small = FRAMES if full else FRAMES | dict(channels=(16,), attention=(True,))
  cfg = moving_digits.frames(arg)
  cfg.autoencoder.update(channels=digits.CHANNELS, groups=8)
  packaged = digits.packaged("autoencoder")
  cfg.encode = c.replace(cfg.encode, weights=packaged)
  cfg.evaluate = c.replace(cfg.evaluate, autoencoder_weights=packaged)
  cfg.guide = digits.guide(2.0, "text")
  cfg.sampler = c.bind(euler.euler)
  cfg.ts = c.bind(times.uniform_grid, num_steps=30 if full else 2)
  runs.change_generator(
    cfg,
    autoencoder_weights=packaged,
    sampler=cfg.sampler,
    ts=cfg.ts,
    wrappers=(cfg.guide,),
  )
  told = c.call(conditioner.LabelTokens, num_classes=10)
  cfg.task = c.replace(cfg.task, conditioner=told, drop_rates=dict(text=0.1))

  cfg.image = network(small, {})
  stages = {f"{k}_images": v for k, v in arm(cfg, "images", cfg.image, image_steps)}
  images = stages["train_images"]
  single = unets.single_frames(images.loader)
  single.batch_size = 8 * BATCH
  stages["train_images"] = c.replace(images, loader=single)
  for suffix, fields in ARMS.values():
    cfg[f"{suffix}_network"] = net = network(small, fields)
    parts = arm(cfg, suffix, net, steps)
    stages |= {f"{stage}_{suffix}": part for stage, part in parts}
    stages[f"train_{suffix}"] = c.replace(
      stages[f"train_{suffix}"], trainable="temporal", init_from=unets.after("images")
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
  return c.call(unet3d.UNet3D, config=own, dtype="float32")


def arm(cfg, suffix, net, steps):
  """[(stage, its program)] of one network: train, sample and evaluate."""
  task = c.replace(cfg.task, network=net)
  training = digits.training(
    suffix,
    task,
    cfg.latents,
    steps=steps,
    peak=1e-3,
    warmup=steps // 30,
    batch_size=BATCH,
    ema_decay=0.99,
    cadence=dict(log=min(50, steps // 2), save=500),
  )
  generator = c.replace(cfg.sample.generator, task=task, weights=suffix)
  drawn = dict(generator=generator, folder=f"samples_{suffix}")
  judged = dict(samples=f"samples_{suffix}", out=f"metrics_{suffix}.json")
  return [
    ("train", training),
    ("sample", c.replace(cfg.sample, **drawn)),
    ("evaluate", c.replace(cfg.evaluate, **judged)),
  ]
