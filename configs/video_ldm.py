"""AlignYourLatents: a frozen image model with layers along time, mixed in by a share.

https://arxiv.org/abs/2304.08818. First the image model is trained (`train_images`),
then the temporal layers and their shares; a share of 0 for them gives the image model
back, frame by frame. In training the first frames, or the ends, of some clips are
given, so one network predicts and interpolates.
The layers are those that its authors published with Stable Video Diffusion. Its decoder
too is trained once more, on clips (`train_decoder`), against a discriminator that sees
motion; the encoder stays as it is, and with it all latents.

With "-upsampler" behind it, another model makes large videos of small ones: it sees the
small video beside its latents, with noise whose deviation it is told. What it is to
enlarge comes from held-out clips, or from a folder of samples (sample.made_before).

At full size it reads captions, as configs/stable_diffusion.py says, by CLIP ViT-H/14.

python -m vdm_jax.main --config=configs/video_ldm.py:digits --workdir=runs/video_ldm
python -m vdm_jax.main --config=configs/video_ldm.py:tiny --workdir=runs/tiny
python -m vdm_jax.main --config=configs/video_ldm.py:tiny-upsampler \
  --workdir=runs/upsampler
"""

import dataclasses

import optax

from configs import stable_diffusion as sd
from vdm_jax import config as c
from vdm_jax.autoencoders import discriminator, kl_temporal
from vdm_jax.conditioners import conditioner
from vdm_jax.data import sources, transforms
from vdm_jax.diffusion import perturbation
from vdm_jax.models.unet import architectures
from vdm_jax.models.unet.unet3d import TransformerConfig
from vdm_jax.pretrained import start
from vdm_jax.programs import sample, train
from vdm_jax.tasks import autoencoding
from vdm_jax.training import inflate, optimizer


def get_config(arg="full"):
  """`arg`: "full", "digits", or "tiny" to see stages at work; or with "-upsampler"."""
  arg, upsampling, rest = arg.partition("-upsampler")
  cfg = sd.start(arg + rest, "video_ldm.py")
  head_dim = 64 if arg == "full" else 4
  sd.network(cfg, arg, architectures.video_ldm, head_dim=head_dim)
  sd.betas(cfg, arg, "scaled_linear", prediction="v")
  if upsampling:
    return upsampler(cfg, arg, head_dim)
  fps = c.call(conditioner.Numbers, names=("fps",), values=dict(fps=8.0))
  sd.text(cfg, fps, width=1024)
  small = {k: cfg.architecture[k] for k in cfg.architecture if k in sd.DIGITS}
  spatial = c.call(TransformerConfig, head_dim=head_dim)
  own = dict(spatial=spatial, vectors=("fps",), mask_channel=True)
  image = c.call(architectures.stable_diffusion, **own, **small)
  sd.on_images(cfg, image)
  sd.put(cfg.task, mask_rates=dict(first=0.3, ends=0.2))
  cfg.train.trainable = "temporal"
  decoder(cfg, arg)
  return cfg


def decoder(cfg, arg):
  """Trains the decoder of the images' autoencoder, which then sees all frames."""
  steps = {"full": 50_000, "digits": 600, "tiny": 4}[arg]
  images, before = cfg.autoencoder, cfg.autoencode
  fields = lambda part: {k: part[k] for k in part if k not in c.VERBS}
  names = {field.name for field in dataclasses.fields(kl_temporal.KLTemporal)}
  shared = {k: v for k, v in fields(images).items() if k in names}
  cfg.video_autoencoder = c.call(kl_temporal.KLTemporal, **shared)
  small = {} if arg == "full" else dict(width=32, depth=1)
  cfg.decoding = c.call(
    autoencoding.Autoencoding,
    **fields(before.task)
    | dict(
      autoencoder=cfg.video_autoencoder,
      frames_per_clip=None,
      kl_weight=0.0,  # it moves the encoder alone
      gan_weight=0.1,
      gan_start=0,
      discriminator=c.call(discriminator.PatchDiscriminator, time=3, **small),
    ),
  )
  rate = 4.5e-6 * 8 if arg == "full" else 5e-4
  players = {
    name: c.call(optimizer.adamw, learning_rate=rate, b1=0.5, b2=0.9)
    for name in ("generator", "discriminator")
  }
  settings = fields(before) | dict(
    folder="decoder",
    task=cfg.decoding,
    optimizer=c.call(
      optimizer.partitioned,
      transforms={**players, "frozen": c.call(optax.set_to_zero)},
      label_fn=c.bind(autoencoding.param_group),
    ),
    steps=steps,
    measure_batches=0,  # the latents stay what they are
    preview=c.bind(
      sample.reconstructions, **fields(before.preview) | dict(task=cfg.decoding)
    ),
    trainable="^(autoencoder/(decoder|post_quant_conv)|discriminator)/",
    init_from=c.bind(
      inflate.inflate,
      folder=learnt(cfg),
      parts=("ema/autoencoder",),
      prefix="autoencoder",
      rename=kl_temporal.FROM_IMAGES,
    ),
  )
  cfg.train_decoder = c.bind(train.run, **settings)
  for part in (*sd.drawn(cfg), cfg.evaluate):
    sd.put(part, autoencoder=cfg.video_autoencoder, autoencoder_weights="decoder")
  place = cfg.stages.index("encode")
  cfg.stages = (*cfg.stages[:place], "train_decoder", *cfg.stages[place:])


def learnt(cfg):
  """Where the images' autoencoder is: trained here, or published."""
  trained = "{workdir}/autoencoder/checkpoints"
  if "pretrained_autoencoder" not in cfg:
    return trained
  published = cfg.get_ref("pretrained_autoencoder")
  return c.call(start.weights, path=published, otherwise=trained)


def upsampler(cfg, arg, head_dim):
  """From videos of a quarter of the height and width, or of half for the small ones.

  An image upsampler (`train_images`) whose layers along time are then trained.
  """
  factor = 4 if arg == "full" else 2
  own = dict(vectors=("augmentation",), mask_channel=False)
  cfg.architecture.update(own)
  clips = cfg.encode.source
  shrunk = dict(
    source=clips, transforms=(c.call(transforms.AddLowResolution, factor=factor),)
  )
  sd.put(cfg.encode, source=c.call(sources.Transformed, **shrunk))
  grid = tuple(cfg.sample.shape[1:3])
  told = (
    c.call(conditioner.LowResolution, grid=grid),
    c.call(
      conditioner.Numbers, names=("augmentation",), values=dict(augmentation=0.05)
    ),
  )
  sd.text(cfg, *told, width=1024)
  noise = c.call(perturbation.ImageAugmentation, mean=-2.0, std=1.0, signal="low")
  sd.put(cfg.task, perturbation=noise)
  small = {k: cfg.architecture[k] for k in cfg.architecture if k in sd.DIGITS}
  spatial = c.call(TransformerConfig, head_dim=head_dim)
  image = c.call(architectures.stable_diffusion, spatial=spatial, **own, **small)
  sd.on_images(cfg, image)
  sd.put(cfg.image_task, perturbation=noise)
  cfg.train.trainable = "temporal"
  source = cfg.evaluate.real
  if arg == "full":
    source = sd.captioned(source, negative=True)
  held_out = dict(source=source, count=20, factor=factor)
  sd.put(cfg.sample, signals=c.bind(sample.low_resolution, **held_out))
  if "preview" in cfg.train:
    sd.put(cfg.train.preview, signals=cfg.sample.signals)
  return cfg
