"""Your own clips: any folder of videos, an autoencoder of them, a Latte, samples.

The folder may have sub-folders; every tenth video is held out. Sizes by name:

  cpu   64 x 64, 8 frames: an autoencoder from scratch, a Latte of 4 M parameters;
        enough to see motion and colours of a few clips, experiments/own_clips
  gpu   256 x 256, 16 frames: Latte-B/2 (130 M) in bfloat16, on one device
  pod   256 x 256, 16 frames: Latte-XL/2 (674 M), parameters and optimizer split

`gpu` and `pod` use Stable Diffusion's autoencoder; give a published one, or one is
trained from scratch. With "-captions" behind the size, texts lead:
the folder has a table metadata.csv of the columns file_name and text, and
--config.text_encoder names a folder with CLIP and its tokenizer.

python -m vdm_jax.main --config=configs/folder.py:cpu --config.videos=clips \
  --workdir=runs/clips
python -m vdm_jax.main --config=configs/folder.py:gpu --config.videos=clips \
  --config.pretrained_autoencoder=sd-vae-ft-ema --workdir=runs/clips
python -m vdm_jax.main --config=configs/folder.py:pod-captions --config.videos=clips \
  --config.text_encoder=stable-diffusion-v1-5 --workdir=runs/clips
"""

from configs.parts import autoencoders, digits, runs, videos
from vdm_jax import config as c
from vdm_jax.autoencoders import kl_image
from vdm_jax.conditioners import conditioner
from vdm_jax.data import folders, sources, transforms
from vdm_jax.diffusion import guidance, process, times
from vdm_jax.diffusion.samplers import heun
from vdm_jax.models.transformer import video_dit
from vdm_jax.programs import sample
from vdm_jax.tasks import autoencoding, latent_diffusion

# Squares of 4 x 4 pixels at the door: 64 x 64 x 3 become 8 x 8 x 6 latents.
SMALL = dict(channels=(64, 128), patch=4, layers_per_block=1, groups=8)
SMALL |= dict(latent_channels=6, mid_layers=1, mid_attention=False)
FAST = dict(dtype="bfloat16", remat="full")
SIZES = {
  "cpu": dict(
    clip=dict(num_frames=8, frame_interval=2),
    pixels=64,
    windows=4,
    shape=(8, 8, 8, 6),
    network=dict(patch=2, width=192, depth=8, num_heads=4, modulation="shared"),
    training=dict(steps=2000, peak=1.5e-3, batch_size=16, warmup=50, ema_decay=0.995),
  ),
  "gpu": dict(
    network=FAST | video_dit.SIZES["B"],
    training=dict(steps=100_000, peak=1e-4, batch_size=16, warmup=1000),
  ),
  "pod": dict(
    network=FAST | video_dit.SIZES["XL"],
    training=dict(steps=200_000, peak=1e-4, batch_size=256, warmup=1000),
  ),
}
WHOLE = dict(clip=dict(num_frames=16, frame_interval=3), pixels=256, windows=4)
WHOLE |= dict(shape=(16, 32, 32, 4))
SMALLEST = dict(clip=dict(num_frames=4, frame_interval=1), pixels=16, windows=2)
SMALLEST |= dict(network={}, shape=(4, 8, 8, 2))
SMALLEST |= dict(training=dict(steps=4, peak=1e-3, batch_size=4, warmup=2))
TINY = autoencoders.TINY | dict(
  network=dict(width=16, depth=2, num_heads=2, patch=2),
  train=dict(cadence=dict(log=2, save=2)),
  ts=dict(num_steps=2),
  sample=dict(signals=dict(count=2), batch_size=2),
  evaluate=dict(train_clips=8),
)


def get_config(arg="cpu"):
  """`arg`: "cpu", "gpu" or "pod", also with "-captions"; "tiny" to see it work."""
  variants = [name + end for end in ("", "-captions") for name in SIZES]
  c.check_variant("folder.py", arg, (*variants, "tiny"))
  name, captions, _ = arg.partition("-captions")
  size = WHOLE | (SMALLEST if name == "tiny" else SIZES[name])
  path = c.shared("videos")
  labelled = "metadata.csv" if captions else False
  every = c.call(folders.videos, path=path, labelled=labelled, **size["clip"])
  clips = [c.call(sources.every_tenth, source=every, held_out=x) for x in (False, True)]
  small = name == "cpu"
  made = {}
  if small:
    autoencoder = c.call(kl_image.KLImage, **SMALL)
    once = dict(autoencoder=autoencoder, frames_per_clip=1)
    task = c.call(autoencoding.Autoencoding, **once)
    made = dict(autoencoder=(autoencoder, task))
  settings = {k: size[k] for k in ("pixels", "windows")}
  cfg = videos.base(path, clips, **settings, **made)
  cfg.videos = path
  cfg.needs.update(autoencode=("videos",), encode=("videos", "pretrained_autoencoder"))
  if small:
    cfg.autoencode = small_autoencoder(cfg, task, size["pixels"])
  signals, wrappers = dict(conditioner=c.call(conditioner.Unconditional)), ()
  cfg.signals = c.bind(sample.unconditional_signals, count=16)
  if captions:
    videos.captions(cfg, 768)
    signals = dict(conditioner=c.call(conditioner.Text))
    wrappers = (c.bind(guidance.guide, drop=("text",), scales=(5.0,)),)
  network = c.call(
    video_dit.VideoDiT,
    out_channels=size["shape"][-1],
    num_frames=size["shape"][0],
    text="cross" if captions else "none",
    **dict(dtype="float32", remat="none") | size["network"],
  )
  task = c.call(
    latent_diffusion.LatentDiffusion,
    network=network,
    process=c.call(process.Flow),
    prediction="velocity",
    # Frames repeat the same content: what it shows is decided at much noise.
    times=c.bind(times.shifted, base=c.bind(times.uniform), shift=6.0),
    **signals,
  )
  videos.denoiser(
    cfg,
    network,
    task,
    adam={},
    stride=size["clip"]["frame_interval"],
    sampler=c.bind(heun.heun),
    ts=c.bind(times.shifted_grid, num_steps=25, shift=6.0),
    wrappers=wrappers,
    shape=size["shape"],
  )
  rest = dict(init_from=cfg.train.init_from, cadence=dict(save=1000))
  training = size["training"] | rest
  cfg.train = digits.training("denoiser", task, cfg.latents, **training)
  if name == "pod":
    cfg.mesh.update(data=1, fsdp=-1)
  if arg == "tiny":
    runs.change(cfg, TINY)
  return cfg


def small_autoencoder(cfg, task, pixels):
  """The stage that trains a small autoencoder on crops of single frames."""
  cut = (
    c.call(transforms.Resize, size=pixels),
    c.call(transforms.CentreCrop, height=pixels),
    c.call(transforms.RandomFlip),
  )
  return digits.training(
    "autoencoder",
    task,
    cfg.train_clips,
    steps=3000,
    peak=2e-3,
    warmup=50,
    batch_size=16,
    ema_decay=0.995,
    measure_batches=100,
    cadence=dict(save=500, preview=1500),
    load=dict(transforms=cut, skipped_file="{workdir}/skipped.jsonl"),
    preview=cfg.autoencode.preview,
    plot=("l1", "perceptual"),
  )
