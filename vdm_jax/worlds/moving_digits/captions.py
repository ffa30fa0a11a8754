"""Captions of moving digits: the digit, and the direction at the first frame.

"a seven drifting down and to the left", "the digit 3 flies upwards". A clip bounces off
the walls, so its direction is that of its velocity at the first frame, one of eight
sectors of 45 degrees: 0 is right, 1 up and to the right, and so on counter-clockwise.
One caption in eight does not name the digit, one in eight not the direction.
"""

import functools
import itertools
import zlib

import numpy as np

from vdm_jax.data import sources
from vdm_jax.data import texts as texts_lib

DIGITS = "zero one two three four five six seven eight nine".split()
DIRECTIONS = (
  ("to the right", "right", "rightwards"),
  ("up and to the right", "up and right", "to the upper right"),
  ("up", "upwards", "straight up"),
  ("up and to the left", "up and left", "to the upper left"),
  ("to the left", "left", "leftwards"),
  ("down and to the left", "down and left", "to the lower left"),
  ("down", "downwards", "straight down"),
  ("down and to the right", "down and right", "to the lower right"),
)
VERBS = (
  ("drifting", "drifts"),
  ("flying", "flies"),
  ("floating", "floats"),
  ("gliding", "glides"),
  ("moving", "moves"),
)
# Pairs (digit, direction) that are never trained on: each digit lacks one
# direction, each direction one digit or two.
UNSEEN = tuple((digit, 3 * digit % len(DIRECTIONS)) for digit in range(len(DIGITS)))


def direction_index(velocity):
  """Indices [...] in DIRECTIONS, 0 to 7, of velocities [..., 2], (y downwards, x)."""
  angle = np.arctan2(-velocity[..., 0], velocity[..., 1])
  return np.rint(angle / (2 * np.pi) * len(DIRECTIONS)).astype(int) % len(DIRECTIONS)


@functools.cache
def wordings(digit=None, direction=None):
  """A tuple of all captions of a digit 0 to 9 and direction 0 to 7; None: not named."""
  names = ("a digit", "the digit", "a number", "the number")
  if digit is not None:
    word = DIGITS[digit]
    article = "an" if word == "eight" else "a"
    names = tuple(f"{article} {w}" for w in (word, digit))
    names += tuple(f"the digit {w}" for w in (word, digit))
  ways = ("",) if direction is None else tuple(f" {w}" for w in DIRECTIONS[direction])
  verbs = tuple(itertools.chain.from_iterable(VERBS))
  parts = itertools.product(names, verbs, ways)
  return tuple(f"{name} {verb}{way}" for name, verb, way in parts)


def caption(record):
  """The caption, a str, of a record with "label" and "velocity"; always the same.

  Bits of the velocity choose the wording, not the clip's index in its source: a source
  that skips a bad clip has the same captions.
  """
  velocity = np.asarray(record["velocity"], np.float32)
  drawn = zlib.crc32(velocity.tobytes())
  pair = [int(record["label"]), int(direction_index(velocity))]
  if drawn % 8 < 2:
    pair[drawn % 8] = None
  texts = wordings(*pair)
  return texts[drawn // 8 % len(texts)]


def digit_and_direction(record):
  """(digit, direction), two ints, of a record with "label" and "velocity"."""
  return int(record["label"]), int(direction_index(np.asarray(record["velocity"])))


def seen_captions(source, unseen_pairs=UNSEEN):
  """The distinct captions of a source, sorted, but of (digit, direction) unseen."""
  left_out = set(map(tuple, unseen_pairs))
  records = (source[i] for i in range(len(source)))
  return sorted({caption(r) for r in records if digit_and_direction(r) not in left_out})


def prompts(per_pair, pairs=None):
  """Prompts for a model, [{"text": str, "digit": int, "direction": int}].

  Args:
    per_pair: prompts of each pair, in other wordings as long as there are any.
    pairs: (digit, direction), either of which may be None: it is not in the text. All
      80 pairs by default.
  """
  if pairs is None:
    pairs = itertools.product(range(len(DIGITS)), range(len(DIRECTIONS)))
  out = []
  for n, (digit, way) in enumerate(pairs):
    found = wordings(digit, way)
    # 7 and 11 have no divisor in common with the number of wordings, 40 or 120.
    chosen = [found[7 * (n + 11 * k) % len(found)] for k in range(per_pair)]
    out += [{"text": text, "digit": digit, "direction": way} for text in chosen]
  return out


def repeat_prompts(prompts, times):
  """A list of prompts, dicts, with each of them `times` times, one after another."""
  return [dict(prompt) for prompt in prompts for _ in range(times)]


def videos_and_prompts(source):
  """(uint8 videos [N, T, H, W, 3], their prompts [{"text", "digit", "direction"}]).

  Of all records of a source; they have "video", "label" and "velocity".
  """
  found = [source[i] for i in range(len(source))]
  prompts = [
    {
      "text": caption(r),
      **dict(zip(("digit", "direction"), digit_and_direction(r), strict=True)),
    }
    for r in found
  ]
  return np.stack([r["video"] for r in found]), prompts


def seen_or_unseen(prompt, unseen_pairs=UNSEEN):
  """The str "unseen pairs" or "seen pairs", by a prompt's "digit" and "direction"."""
  pair = prompt["digit"], prompt["direction"]
  return "unseen pairs" if pair in set(map(tuple, unseen_pairs)) else "seen pairs"


def captioned_clips(source, texts, unseen_pairs=UNSEEN):
  """A source of clips with their embedded captions, without those of unseen pairs.

  Args:
    source: of records with "label" and "velocity"; they gain "text" and "text_mask".
    texts: a folder of embedded texts that the program `embed` wrote.
    unseen_pairs: pairs (digit, direction) to leave out.
  """
  left_out = set(map(tuple, unseen_pairs))
  records = range(len(source))
  kept = [i for i in records if digit_and_direction(source[i]) not in left_out]
  seen = sources.Subset(source, indices=kept)
  return texts_lib.WithTexts(seen, texts, text_of=caption)
