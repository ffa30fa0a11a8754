"""Stable Diffusion's U-Net, frame by frame: where the video U-Nets begin.

https://arxiv.org/abs/2112.10752. `digits` trains it on moving digits, a class standing
for its text as one word; configs/animatediff.py and configs/video_ldm.py freeze what it
learns and train layers along time. `full` has the published size, scaled-linear betas
and eps, and reads captions by CLIP: give a folder with its text encoder and tokenizer,
such as Stable Diffusion's. Clips lie in `videos/train` and `videos/test`, each with a
table metadata.csv of the columns file_name and text. It may start from published
weights, and samples are of --config.prompts or, without, of the captions in `test`.

python -m vdm_jax.main --config=configs/stable_diffusion.py:digits --workdir=runs/images
python -m vdm_jax.main --config=configs/stable_diffusion.py:tiny --workdir=runs/tiny
python -m vdm_jax.main --config=configs/stable_diffusion.py --workdir=runs/sd \
  --config.text_encoder=stable-diffusion-v1-5 \
  --config.pretrained=stable-diffusion-v1-5/unet \
  --config.pretrained_autoencoder=stable-diffusion-v1-5/vae
"""

from configs import latte, moving_digits, quickstart
from vdm_jax import config as c
from vdm_jax.conditioners import conditioner
from vdm_jax.data import folders, loader, pictures, sources, texts
from vdm_jax.diffusion import guidance, process, times
from vdm_jax.diffusion.samplers import ddim
from vdm_jax.models.unet import architectures, unet3d
from vdm_jax.pretrained import start as start_lib
from vdm_jax.programs import embed, look, sample, train
from vdm_jax.tasks import latent_diffusion
from vdm_jax.training import inflate

# Of the networks of moving digits, whose frames have 4 x 4 x 8 latents.
DIGITS = dict(
  out_channels=8, channels=(64, 128), layers=1, attention=(True, True), groups=16
)
SPATIAL = r"^(?!.*temporal)"
TINY = DIGITS | dict(channels=(8,), attention=(True,), groups=4)


def get_config(arg="full"):
  """`arg`: "full", "digits", or "tiny" to see every stage work in a minute."""
  cfg = start(arg, "stable_diffusion.py")
  network(cfg, arg, architectures.stable_diffusion, num_heads=8 if arg == "full" else 2)
  betas(cfg, arg, "scaled_linear")
  text(cfg)
  return cfg


def start(arg, name):
  """The data, autoencoder and programs of a system: all that is not its network."""
  if arg not in ("full", "digits", "tiny"):
    raise ValueError(f"{name}:{arg} is unknown; there are full, digits and tiny.")
  if arg == "full":
    cfg = latte.get_config("ucf101")
    for clips, split in ((cfg.train_clips, "train"), (cfg.test_clips, "test")):
      put(clips, path=f"videos/{split}", labelled=False)
    for part in drawn(cfg):
      put(part, signals=c.bind(sample.unconditional, count=2048))
    cfg.train.optimizer.update(learning_rate=1e-4, clip=1.0, clip_after=0)
    cfg.train.update(ema_decay=0.9999)
    return cfg
  if arg == "tiny":
    cfg = quickstart.get_config("tiny")
    del cfg.train["preview"]  # a sampler more to compile
    return cfg
  cfg = moving_digits.get_config("frames")
  cfg.train.steps = 3000
  cfg.train.optimizer.learning_rate.update(peak=5e-4, steps=3000)
  return cfg


def network(cfg, arg, architecture, **fields):
  """Puts a U-Net in the place of the transformer: of its full size, or small."""
  small = {"full": {}, "digits": DIGITS, "tiny": TINY}[arg]
  cfg.architecture = c.call(architecture, **small | fields)
  settings = dict(remat=arg == "full", dtype="float32")
  cfg.unet = c.call(unet3d.UNet3D, config=cfg.architecture, **settings)
  put(cfg.task, network=cfg.unet)
  del cfg["network"]
  cfg.network = cfg.unet
  if "denoiser_weights" in cfg:
    for part in (cfg.denoiser_weights, cfg.train.init_from):
      put(part, module=cfg.unet)


def betas(cfg, arg, schedule, prediction="eps", **fields):
  """A process of 1000 steps, sampled by DDIM in 50, or two."""
  put(
    cfg.task,
    process=c.call(process.DDPM, schedule=schedule, **fields),
    prediction=prediction,
    times=c.bind(times.uniform_steps),
  )
  grid = c.bind(times.leading_grid, num_steps=2 if arg == "tiny" else 50, offset=1)
  sampling(cfg, c.bind(ddim.ddim), grid)


def on_images(cfg, architecture):
  """A first training, of the image model alone, that `train` then starts from.

  Its parameters are those of the video's without layers along time.
  """
  cfg.image_unet = beside(cfg, architecture)
  names = ("process", "prediction", "times", "conditioner", "drop_rates")
  cfg.image_task = c.call(
    latent_diffusion.LatentDiffusion,
    **{k: cfg.task[k] for k in names},
    network=cfg.image_unet,
  )
  rest = dict(init_from=None, trainable=None)
  train_also(cfg, "images", "train", task=cfg.image_task, **rest)
  images = "{workdir}/images/checkpoints"
  if "pretrained" in cfg:
    published = dict(path=cfg.get_ref("pretrained"), module=cfg.image_unet)
    images = c.call(start_lib.weights, otherwise=images, **published)
    put(cfg.sample, weights="denoiser")
  put(cfg.train, init_from=c.bind(inflate.inflate, folder=images, parts=("ema",)))


def beside(cfg, architecture):
  """Another U-Net, computed as the config's own."""
  same = {name: cfg.unet.get_ref(name) for name in ("remat", "dtype")}
  return c.call(unet3d.UNet3D, config=architecture, **same)


def with_image_encoder(cfg, shape):
  """The image encoder whose tokens of `shape`, of the first frames, are stored too."""
  cfg.image_encoder = "image_encoder"
  encoder = c.call(look.ImageEncoder, folder=cfg.get_ref("image_encoder"), shape=shape)
  put(cfg.encode, image_encoder=encoder)
  cfg.needs.encode += ("image_encoder",)


def stills(clips):
  """The loader `clips`, of single frames."""
  return c.call(
    loader.Loader,
    source=c.call(
      sources.Transformed,
      source=clips.source,
      transforms=(c.call(pictures.Still),),
    ),
    batch_size=clips.batch_size,
  )


def train_after(cfg, name, network, before, parts=("frozen", "ema"), **changes):
  """A stage that trains the LoRA `network` around what the folder `before` holds.

  Args:
    parts: of the State in `before`, see inflate.
    changes: of other settings of `train.run`.
  """
  fields = {k: cfg.task[k] for k in cfg.task if k not in c.VERBS}
  task = c.call(latent_diffusion.LatentDiffusion, **fields | dict(network=network))
  cfg[f"task_{name}"] = task
  start_from = c.bind(
    inflate.inflate,
    folder="{workdir}/" + before + "/checkpoints",
    parts=parts,
    prefix="base",
  )
  settings = dict(task=task, trainable="^lora/", init_from=start_from)
  train_also(cfg, name, **settings | changes)


def pictures_after(cfg):
  """A second training, of all but the layers along time, on single frames."""
  start_from = c.bind(
    inflate.inflate, folder="{workdir}/denoiser/checkpoints", parts=("ema",)
  )
  single = stills(cfg.train.loader)
  train_also(cfg, "pictures", loader=single, trainable=SPATIAL, init_from=start_from)
  weights = "pictures"
  if "pretrained" in cfg:
    published = dict(path=cfg.get_ref("pretrained"), module=cfg.network)
    weights = c.call(start_lib.weights, otherwise=weights, **published)
  put(cfg.sample, weights=weights)


def train_also(cfg, name, before="sample", **changes):
  """A stage train_<name>, as `train` is but for `changes`; None leaves one out.

  A stage that changes the task has no previews, which draw with the other.
  """
  changes = dict(folder=name) | changes
  if "task" in changes:
    changes |= dict(preview=None, preview_every=None)
  settings = {k: cfg.train[k] for k in cfg.train if k not in c.VERBS} | changes
  settings = {k: v for k, v in settings.items() if v is not None}
  cfg[f"train_{name}"] = c.bind(train.run, **settings)
  place = cfg.stages.index(before)
  cfg.stages = (*cfg.stages[:place], f"train_{name}", *cfg.stages[place:])


def text(cfg, *others, drop=0.1, scale=7.5, width=768):
  """A text, and guidance by it; `others` tell more.

  At full size captions, in `width` numbers a token, and guidance of `scale`; else a
  label, as one word, and 2.
  """
  full = "dataset" not in cfg
  if full and "encoder" not in cfg:
    captions(cfg, drop, width)
  told = c.call(conditioner.Text)
  if not full:
    told = c.call(conditioner.LabelTokens, num_classes=10)
  parts = c.call(conditioner.All, parts=(told, *others)) if others else told
  # Captions are dropped with the data: CLIP has values for the empty one, too.
  rates = {} if full else dict(text=drop)
  put(cfg.task, conditioner=parts, drop_rates=rates)
  guided(
    cfg, c.bind(guidance.guide, drop=(("text",),), scales=(scale if full else 2.0,))
  )


def captions(cfg, drop, width):
  """Embeds the texts of a table, for the training and, of held-out clips, samples."""
  cfg.text_encoder = "text_encoder"
  cfg.prompts = ""
  cfg.needs.update(embed=("text_encoder",), sample=("text_encoder",))
  for clips in (cfg.train_clips, cfg.test_clips):
    put(clips, labelled="metadata.csv")
  cfg.encoder = c.call(
    embed.PipelineTextEncoder,
    folder=cfg.get_ref("text_encoder"),
    shape=(77, width),
  )
  found = c.bind(texts.unique_captions, clips=(cfg.train_clips, cfg.test_clips))
  cfg.embed = c.bind(embed.run, texts=found, encoder=cfg.encoder)
  cfg.stages = ("embed", *cfg.stages)
  put(cfg.train.loader, source=captioned(cfg.train.loader.source, drop=drop))
  fields = {k: cfg.test_clips.get_ref(k) for k in cfg.test_clips if k not in c.VERBS}
  held_out = c.bind(folders.videos, **fields)  # not read where there are prompts
  asked = dict(texts=cfg.get_ref("prompts"), clips=held_out, count=2048)
  for part in drawn(cfg):
    put(part, signals=c.bind(embed.prompt_signals, encoder=cfg.encoder, **asked))


def captioned(source, **settings):
  """The clips of `source` with what `embed` wrote of their texts."""
  return c.call(texts.WithTexts, source=source, texts="{workdir}/texts", **settings)


def sampling(cfg, sampler, ts):
  """How samples are drawn, in training's previews too."""
  for part in drawn(cfg):
    put(part, sampler=sampler, ts=ts)
  put(cfg, sampler=sampler, ts=ts)


def guided(cfg, *wrappers):
  for part in drawn(cfg):
    put(part, wrappers=wrappers)


def drawn(cfg):
  return [cfg.sample] + ([cfg.train.preview] if "preview" in cfg.train else [])


def put(part, **fields):
  """Sets fields, whatever they held before."""
  with part.ignore_type():
    for name, value in fields.items():
      part[name] = value
