"""AlignYourLatents: a frozen image model with layers along time, mixed in by a share.

https://arxiv.org/abs/2304.08818. First the image model is trained (`train_images`),
then the temporal layers and their shares; a share of 0 for them gives the image model
back, frame by frame. In training the first frames, or the ends, of some clips are
given, so one network predicts and interpolates.
The layers are those that its authors published with Stable Video Diffusion. Its decoder
too is trained once more, on clips (`train_decoder`), against a discriminator that sees
motion; the encoder stays as it is, and with it all latents.

With "-upsampler" behind it, another model makes large videos of small ones: the small
video is stacked on its latents, with noise whose deviation is a condition. The videos
to enlarge are held-out clips, or a folder of samples
(sample.low_resolution_signals_of_samples).

At full size it reads captions, as configs/parts/unets.py says, by CLIP ViT-H/14.

python -m vdm_jax.main --config=configs/video_ldm.py:digits --workdir=runs/video_ldm
python -m vdm_jax.main --config=configs/video_ldm.py:tiny --workdir=runs/tiny
python -m vdm_jax.main --config=configs/video_ldm.py:tiny-upsampler \
  --workdir=runs/upsampler
"""

import dataclasses

from configs.parts import autoencoders, runs, unets, videos
from vdm_jax import config as c
from vdm_jax.autoencoders import discriminator, kl_temporal
from vdm_jax.conditioners import conditioner
from vdm_jax.data import transforms
from vdm_jax.diffusion import perturbation
from vdm_jax.models.unet import architectures
from vdm_jax.models.unet.unet3d import TransformerConfig
from vdm_jax.pretrained import start
from vdm_jax.programs import sample
from vdm_jax.training import inflate


def get_config(arg="full"):
  """`arg`: "full", "digits", or "tiny" to see stages at work; or with "-upsampler"."""
  variants = (*unets.SIZES, *(f"{size}-upsampler" for size in unets.SIZES))
  c.check_variant("video_ldm.py", arg, variants)
  size, upsampling, _ = arg.partition("-upsampler")
  return upsampler(size) if upsampling else video(size)


def video(size):
  """Captions to videos: an image model, then layers along time and a decoder."""
  cfg = unets.base(size, text_width=1024)
  drawn = dict(decoder=train_decoder(cfg, size))
  others = (unets.number("fps", 8.0),)
  rates = dict(mask_rates=dict(first=0.3, ends=0.2))
  own = dict(vectors=("fps",), mask_channel=True)
  networks(cfg, size, others, own, drawn, **rates)
  return cfg


def upsampler(size):
  """From videos of a quarter of the height and width, or of half for the small ones.

  An image upsampler (`train_images`) whose layers along time are then trained.
  """
  factor = 4 if size == "full" else 2
  cfg = unets.base(size, text_width=1024)
  low = c.call(transforms.AddLowResolution, factor=factor)
  cfg.encode = runs.transform_first(cfg.encode, low)
  grid = (32, 32) if size == "full" else (4, 4)  # of the latents
  small = c.call(conditioner.LowResolution, grid=grid)
  others = small, unets.number("augmentation", 0.05)
  noise = c.call(perturbation.ImageNoiseAugmentation, mean=-2.0, std=1.0, signal="low")
  source = cfg.test_videos
  if size == "full":
    source = videos.captioned(source, negative=True)
  held_out = dict(source=source, count=20, factor=factor)
  drawn = dict(signals=c.bind(sample.low_resolution_signals, **held_out))
  own = dict(vectors=("augmentation",), mask_channel=False)
  networks(cfg, size, others, own, drawn, perturbation=noise)
  return cfg


def networks(cfg, size, others, own, drawn, **fields):
  """Adds both networks, conditioned on `others` and the text, and their trainings.

  Args:
    own: fields of both architectures.
    drawn: settings of `unets.denoiser` for samples.
    fields: of the task.
  """
  head_dim = unets.SIZES[size]["head_dim"]
  network = unets.network(size, architectures.video_ldm, head_dim=head_dim, **own)
  task = unets.ddpm(network, prediction="v", **unets.text(size, *others), **fields)
  guide = unets.guide(size, 7.5)
  unets.denoiser(cfg, size, network, task, wrappers=(guide,), **drawn)
  spatial = c.call(TransformerConfig, head_dim=head_dim)
  image = architectures.stable_diffusion
  unets.train_images_first(cfg, size, image, spatial=spatial, **own)


def train_decoder(cfg, size):
  """Adds a training of the autoencoder's decoder, which then sees all frames.

  Returns:
    (the autoencoder with it, its weights).
  """
  names = {field.name for field in dataclasses.fields(kl_temporal.KLTemporal)}
  shared = {k: v for k, v in cfg.autoencoder.items() if k in names}
  cfg.video_autoencoder = c.call(kl_temporal.KLTemporal, **shared)
  small = {} if size == "full" else dict(width=8 if size == "tiny" else 32, depth=1)
  cfg.decoding = c.replace(
    cfg.autoencode.task,
    autoencoder=cfg.video_autoencoder,
    frames_per_clip=None,
    kl_weight=0.0,  # it moves the encoder alone
    gan_weight=0.1,
    gan_start=0,
    discriminator=c.call(discriminator.PatchDiscriminator, time_kernel=3, **small),
  )
  learnt = "{workdir}/autoencoder/checkpoints"
  if size == "full":
    published = cfg.get_ref("pretrained_autoencoder")
    learnt = c.call(start.published_weights, path=published, otherwise=learnt)
  begin = dict(parts=("ema/autoencoder",), prefix="autoencoder")
  begin["rename"] = kl_temporal.FROM_IMAGES
  cfg.train_decoder = c.replace(
    cfg.autoencode,
    folder="decoder",
    task=cfg.decoding,
    optimizer=autoencoders.adversarial(4.5e-6 * 8 if size == "full" else 5e-4),
    steps={"full": 50_000, "digits": 600, "tiny": 4}[size],
    measure_batches=0,  # the latents stay what they are
    preview=c.replace(cfg.autoencode.preview, task=cfg.decoding),
    trainable="^(autoencoder/(decoder|post_quant_conv)|discriminator)/",
    init_from=c.bind(inflate.inflate, folder=learnt, **begin),
  )
  if size == "tiny":
    cfg.train_decoder.loader.batch_size = 4
  cfg.stages = runs.insert(cfg.stages, "train_decoder", "encode")
  return cfg.video_autoencoder, "decoder"
