"""Captions of moving digits: which digit it is, and which way it sets out.

"a seven drifting down and to the left", "the digit 3 flies upwards". A clip bounces off
the walls, so its direction is that of its velocity at the first frame, in eight sectors
of 45 degrees, as one sees them: 0 is right, 1 up and to the right, and so on against
the clock. One caption in eight does not say the digit, one in eight not the direction.
"""

import functools
import itertools
import zlib

import numpy as np

from vdm_jax.data import sources

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
# Pairs (digit, direction) that are asked for and never trained on: each digit lacks one
# direction, each direction one digit or two.
UNSEEN = tuple((digit, 3 * digit % len(DIRECTIONS)) for digit in range(len(DIGITS)))


def direction(velocity):
  """The sector [...] of velocities [..., 2], (y, x) with y downwards."""
  angle = np.arctan2(-velocity[..., 0], velocity[..., 1])
  return np.rint(angle / (2 * np.pi) * len(DIRECTIONS)).astype(int) % len(DIRECTIONS)


@functools.cache
def wordings(digit=None, direction=None):
  """Every caption, a tuple of str, of a digit and a direction; None is not told."""
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


def describe(record):
  """The caption of a clip with "label" and "velocity", always the same one.

  Bits of the velocity choose the wording, not the clip's place in its source: a source
  from which a bad clip is missing has the same captions.
  """
  velocity = np.asarray(record["velocity"], np.float32)
  drawn = zlib.crc32(velocity.tobytes())
  told = [int(record["label"]), int(direction(velocity))]
  if drawn % 8 < 2:
    told[drawn % 8] = None
  found = wordings(*told)
  return found[drawn // 8 % len(found)]


def pair(record):
  """(digit, direction) of a clip."""
  return int(record["label"]), int(direction(np.asarray(record["velocity"])))


def every(source, unseen=UNSEEN):
  """The captions of a source's clips, but of `unseen` pairs: sorted, each once."""
  left_out = set(map(tuple, unseen))
  records = (source[i] for i in range(len(source)))
  return sorted({describe(r) for r in records if pair(r) not in left_out})


def asked(each, pairs=None):
  """What to ask a model for: [{"text", "digit", "direction"}], `each` times a pair.

  Each time in another wording, as long as there are any.

  Args:
    pairs: (digit, direction), either of which may be None; all 80 when None.
  """
  if pairs is None:
    pairs = itertools.product(range(len(DIGITS)), range(len(DIRECTIONS)))
  wanted = []
  for n, (digit, way) in enumerate(pairs):
    found = wordings(digit, way)
    # 7 and 11 have no divisor in common with the number of wordings, 40 or 120.
    chosen = [found[7 * (n + 11 * k) % len(found)] for k in range(each)]
    wanted += [{"text": text, "digit": digit, "direction": way} for text in chosen]
  return wanted


def repeated(wants, each):
  """Every entry of such a list `each` times, in order: for texts of one's own."""
  return [dict(want) for want in wants for _ in range(each)]


def clips(source):
  """(videos [N, T, H, W, 3], what one would ask for to get them) of real clips."""
  found = [source[i] for i in range(len(source))]
  wanted = [
    {"text": describe(r), **dict(zip(("digit", "direction"), pair(r), strict=True))}
    for r in found
  ]
  return np.stack([r["video"] for r in found]), wanted


def novelty(want, unseen=UNSEEN):
  """Of something asked: "unseen pairs" or "seen pairs"."""
  asked_for = want["digit"], want["direction"]
  return "unseen pairs" if asked_for in set(map(tuple, unseen)) else "seen pairs"


class Captioned:
  """A source's clips with the embedded caption of each, without those of unseen pairs.

  A record gains "text" [L, D] and "text_mask" [L] and loses "velocity".

  Args:
    source: of records with "label" and "velocity".
    texts: a folder that programs/embed.py wrote.
    unseen: pairs (digit, direction) that are left out.
  """

  def __init__(self, source, texts, unseen=UNSEEN):
    embedded = sources.RecordFolder(texts)
    place = {text: row for row, text in enumerate(embedded.meta["texts"])}
    left_out = set(map(tuple, unseen))
    self.source, self.indices, self._rows = source, [], []
    for i in range(len(source)):
      if pair(record := source[i]) in left_out:
        continue
      if (text := describe(record)) not in place:
        name = sources.record_name(source, i)
        raise KeyError(
          f"{text!r}, the caption of {name}, is not in {texts}; delete that folder and "
          "embed again."
        )
      self.indices.append(i)
      self._rows.append(place[text])
    self._texts = sources.in_memory(embedded).arrays
    self.skipped = getattr(source, "skipped", [])
    self.classes = getattr(source, "classes", None)

  def __len__(self):
    return len(self.indices)

  def __getitem__(self, i):
    record = self.source[self.indices[i]]
    kept = {k: v for k, v in record.items() if k != "velocity"}
    return kept | {k: array[self._rows[i]] for k, array in self._texts.items()}

  def name(self, i):
    return sources.record_name(self.source, self.indices[i])
