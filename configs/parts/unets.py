"""What the systems around Stable Diffusion's U-Net share, at three sizes.

"full" reads a folder of videos, `--config.data`, with sub-folders `train` and `test`. A
system with texts needs a table metadata.csv in each, of the columns file_name and text,
and by `--config.text_encoder` a folder with CLIP and its tokenizer, such as Stable
Diffusion's. It may start from published weights (`--config.pretrained`,
`--config.pretrained_autoencoder`), and its samples are of `--config.prompts` or,
without, of the captions in `test`. "digits" and "tiny" read moving digits; a class
stands for the text, as one word.
"""

from configs.parts import digits, runs, videos
from vdm_jax import config as c
from vdm_jax.conditioners import conditioner
from vdm_jax.data import folders, pictures, sources
from vdm_jax.diffusion import process, times
from vdm_jax.diffusion.samplers import ddim
from vdm_jax.models.unet import unet3d
from vdm_jax.pipelines import image_encoder
from vdm_jax.pretrained import start
from vdm_jax.programs import sample
from vdm_jax.tasks import latent_diffusion
from vdm_jax.training import inflate

# Of the names of parameters: all but the layers along time.
SPATIAL = r"^(?!.*temporal)"
LORA = dict(parts=("frozen", "ema"))  # all that a training of a LoRA left
DIGITS = dict(
  out_channels=8, channels=(64, 128), layers=1, attention=(True, True), groups=16
)
# Fields of the network, and of its attentions; the training on moving digits.
SMALL = dict(num_heads=2, head_dim=4)
SIZES = {
  "full": dict(network={}, num_heads=8, head_dim=64),
  "digits": dict(network=DIGITS, peak=5e-4, ema_decay=0.999, **SMALL),
  "tiny": dict(
    network=DIGITS | dict(channels=(8,), attention=(False,), groups=4),
    peak=1e-3,
    ema_decay=0.995,
    **SMALL,
  ),
}


def base(size, *, text_width=None, data="videos", read=folders.videos, **more):
  """All of a config that comes before the denoiser.

  Args:
    text_width: numbers a token of the text encoder at full size; None reads no texts.
    data, read: the folder of the videos at full size, and how it is read.
    more: of `videos.base` at full size, of `digits.base` else.
  """
  if size != "full":
    small = dict(channels=(8, 8), groups=4) if size == "tiny" else {}
    return digits.base(**digits.CAREFUL | small | more)
  frames = dict(frame_interval=3) if read is folders.videos else {}
  frames |= dict(num_frames=16, labelled="metadata.csv" if text_width else False)
  cfg = videos.base(*videos.splits(data, read, **frames), **dict(windows=4) | more)
  cfg.signals = c.bind(sample.unconditional_signals, count=2048)
  if text_width:
    videos.captions(cfg, text_width)
  return cfg


def network(size, architecture, **fields):
  """A UNet3D of an architecture, of its published size or small."""
  return c.call(
    unet3d.UNet3D,
    config=c.call(architecture, **SIZES[size]["network"] | fields),
    remat=c.shared("full" if size == "full" else "none"),
    dtype=c.shared("float32"),
  )


def ddpm(network, *, schedule="scaled_linear", beta_ends=None, **fields):
  """A LatentDiffusion of 1000 steps, all trained equally often, that predicts eps.

  Args:
    schedule, beta_ends: of the betas.
    fields: of the task, such as those of `text`; or others than these.
  """
  ends = dict(beta_ends=beta_ends) if beta_ends else {}
  steps = dict(process=c.call(process.DDPM, schedule=schedule, **ends))
  steps |= dict(prediction="eps", times=c.bind(times.uniform_steps))
  return c.call(latent_diffusion.LatentDiffusion, network=network, **steps | fields)


def text(size, *others, **rates):
  """Settings of a task that is conditioned on a text and on `others`.

  At full size captions, which are dropped with the data: CLIP has values for the empty
  one, too. Else a label, as one word, of which a tenth is dropped.
  """
  condition = c.call(conditioner.Text)
  if size != "full":
    condition = c.call(conditioner.LabelTokens, num_classes=10)
    rates = dict(text=0.1) | rates
  parts = c.call(conditioner.All, parts=(condition, *others)) if others else condition
  return dict(conditioner=parts, drop_rates=rates)


def number(name, default):
  """A conditioner of one number, where a batch has none `default`."""
  return c.call(conditioner.Numbers, names=(name,), values={name: default})


def guide(size, scale, *names):
  """Guidance by `names`, "text" by itself, of `scale` at full size and 2 else."""
  return digits.guide(scale if size == "full" else 2.0, *(names or ("text",)))


def denoiser(cfg, size, network, task, **drawn):
  """Adds training on `cfg.latents`, samples, by default of 50 steps, and scores."""
  steps = c.bind(times.leading_grid, num_steps=50, offset=1)
  drawn = dict(sampler=c.bind(ddim.ddim), ts=steps) | drawn
  if size == "full":
    adam = dict(learning_rate=1e-4, clip=1.0, clip_after=0)
    return videos.denoiser(cfg, network, task, adam=adam, **drawn)
  settings = dict(steps=3000, warmup=100, batch_size=32, cadence=dict(preview=5000))
  settings |= {name: SIZES[size][name] for name in ("peak", "ema_decay")}
  if size == "tiny":
    drawn["preview"] = False  # a sampler more to compile
  digits.denoiser(cfg, network, task, settings, **drawn)
  if size == "tiny":
    digits.tiny(cfg, {} if "signals" in drawn else digits.TINY_SAMPLES)


def train_also(cfg, name, before="sample", **changes):
  """Adds a stage train_<name> that is as `train`, but for `changes`.

  A stage that trains another task has no previews, which draw with that of `train`.
  """
  changes = dict(folder=name) | changes
  if "task" in changes:
    changes |= dict(preview=c.DEFAULT)
  cfg[f"train_{name}"] = c.replace(cfg.train, **changes)
  cfg.stages = runs.insert(cfg.stages, f"train_{name}", before)


def train_images_first(cfg, size, architecture, **fields):
  """Adds a training of the image model, from which `train` begins with what it adds.

  Its parameters are those of the video's without layers along time; `architecture` and
  `fields` are its own.
  """
  config = c.call(architecture, **SIZES[size]["network"] | fields)
  cfg.image_network = c.replace(cfg.network, config=config)
  task = c.replace(cfg.task, network=cfg.image_network, mask_rates=c.DEFAULT)
  cfg.image_task = task
  train_also(cfg, "images", "train", task=task, init_from=c.DEFAULT)
  images = "{workdir}/images/checkpoints"
  if size == "full":
    published = dict(path=cfg.get_ref("pretrained"), module=cfg.image_network)
    images = c.call(start.published_weights, otherwise=images, **published)
    runs.change_generator(cfg, weights="denoiser")
  begin = c.bind(inflate.inflate, folder=images, parts=("ema",))
  cfg.train = c.replace(cfg.train, init_from=begin, trainable="temporal")


def train_lora(cfg, name, network, begin, before="sample", **changes):
  """Adds a stage train_<name> of the LoRA `network`, around what `begin` reads."""
  cfg[f"task_{name}"] = task = c.replace(cfg.task, network=network)
  settings = dict(task=task, trainable="^lora/", init_from=begin)
  train_also(cfg, name, before, **settings | changes)


def after(folder, parts=("ema",), **settings):
  """Starts a training from what an earlier one left in `folder`."""
  path = "{workdir}/" + folder + "/checkpoints"
  return c.bind(inflate.inflate, folder=path, parts=parts, **settings)


def single_frames(clips):
  """The loader `clips`, of single frames."""
  return runs.transform_first(clips, c.call(pictures.RandomFrame))


def embed_first_frames(cfg, shape):
  """Stores with the latents the tokens, [L, D] = shape, of first frames."""
  cfg.image_encoder = "image_encoder"
  folder = cfg.get_ref("image_encoder")
  encoder = c.call(image_encoder.ImageEncoder, folder=folder, shape=shape)
  cfg.encode = c.replace(cfg.encode, image_encoder=encoder)
  cfg.needs.encode += ("image_encoder",)


def first_frames(count, source=None):
  """Signals of samples: the first frames of `count` clips of the training data."""
  source = source or c.call(sources.RecordFolder, path=videos.LATENTS)
  return c.bind(sample.first_frame_signals, source=source, count=count)
