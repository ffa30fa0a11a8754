"""Text to video: does a clip show the digit and the direction that its caption says?

configs/text_digits.py to its end, then it is asked for all 80 pairs of digit and
direction at several guidance scales, ten of which it has never seen; for something
vague with and without a negative prompt; and in words that are in no caption.

python -m vdm_jax.main --config=experiments/text_digits/config.py \
  --workdir=runs/text_digits
python -m vdm_jax.main --config=experiments/text_digits/config.py:tiny \
  --workdir=runs/tiny
"""

from configs import text_digits
from vdm_jax import config as c
from vdm_jax.data import sources
from vdm_jax.diffusion import guidance
from vdm_jax.programs import embed
from vdm_jax.studies import prompt
from vdm_jax.worlds.moving_digits import captions, directions

SCALES = (1.0, 1.5, 2.0, 3.0, 5.0)
SCALE = 2.0
SHOWN = (  # three of these pairs are unseen: 8 right, 7 down and left, 5 down and right
  {"text": "an eight gliding right", "digit": 8, "direction": 0},
  {"text": "a 9 flies to the upper right", "digit": 9, "direction": 1},
  {"text": "the digit 3 flies upwards", "digit": 3, "direction": 2},
  {"text": "a 0 moving to the upper left", "digit": 0, "direction": 3},
  {"text": "the digit two drifts leftwards", "digit": 2, "direction": 4},
  {"text": "a seven drifting down and to the left", "digit": 7, "direction": 5},
  {"text": "a four floats straight down", "digit": 4, "direction": 6},
  {"text": "the digit 5 glides to the lower right", "digit": 5, "direction": 7},
)
FREE = (  # words that no caption has
  {"text": "watch the number three rise", "digit": 3, "direction": 2},
  {"text": "six falling", "digit": 6, "direction": 6},
  {"text": "the figure five sinks", "digit": 5, "direction": 6},
  {"text": "a handwritten 2 on its way to the right edge", "digit": 2, "direction": 0},
  {"text": "one, heading west", "digit": 1, "direction": 4},
  {"text": "an 8 climbs towards the top left corner", "digit": 8, "direction": 3},
  {"text": "9 travels south-west", "digit": 9, "direction": 5},
  {"text": "a four going diagonally up and rightwards", "digit": 4, "direction": 1},
)


def get_config(arg="full"):
  """`arg`: "full", or "tiny" to see every stage work."""
  cfg = text_digits.get_config(arg)
  each, vague = (1, 1) if arg == "tiny" else (10, 25)

  def split(name, keys):
    source = c.call(sources.Tfds, builder=cfg.dataset, split=name, keys=keys)
    return c.call(sources.in_memory, source=source)

  def judge(*shares):
    train = split("train", ("video", "label"))
    return c.call(directions.PromptScorer, train=train, shares=shares)

  real = c.bind(
    captions.videos_and_prompts, source=split("test", ("video", "label", "velocity"))
  )

  def ask(prompts, variants, *shares, **rest):
    return c.bind(
      prompt.run,
      generator=cfg.generator,
      encoder=cfg.encoder,
      prompts=prompts,
      variants=variants,
      judge=judge(*shares),
      **rest,
    )

  def way(name, scale, negative=""):
    wrappers = (c.bind(guidance.guide, drop=(("text",),), scales=(scale,)),)
    null = c.call(embed.unpadded_negative_embedding, encoder=cfg.encoder, text=negative)
    return c.call(
      prompt.GuidanceVariant, name=name, wrappers=wrappers, negative_embedding=null
    )

  def negatives(text):
    return (
      way("no negative prompt", SCALE),
      way(f'negative "{text}"', SCALE, text),
      way(f'negative "{text}", twice as strong', 2 * SCALE, text),
    )

  chosen = (way(f"guidance {SCALE}", SCALE),)
  any_digit = tuple((None, i) for i in range(len(captions.DIRECTIONS)))
  cfg.pairs = ask(
    c.bind(captions.prompts, per_pair=each),
    tuple(way(f"guidance {scale}", scale) for scale in SCALES),
    group=c.bind(captions.seen_or_unseen),
    real=real,
    folder="pairs",
  )
  cfg.no_seven = ask(
    c.bind(captions.prompts, per_pair=vague, pairs=any_digit),
    negatives("a seven"),
    ("digit", 7),
    folder="no_seven",
  )
  cfg.not_down = ask(
    c.bind(captions.prompts, per_pair=8 * vague, pairs=((3, None),)),
    negatives("a digit moving down"),
    ("direction", 6),
    folder="not_down",
  )
  cfg.show = ask(
    c.bind(captions.repeat_prompts, prompts=SHOWN, times=6), chosen, folder="show"
  )
  cfg.free = ask(
    c.bind(captions.repeat_prompts, prompts=FREE, times=vague),
    chosen,
    group=c.bind(prompt.text_of),
    folder="free",
  )
  cfg.stages = (*cfg.stages, "pairs", "no_seven", "not_down", "show", "free")
  return cfg
