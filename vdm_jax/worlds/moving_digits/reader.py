"""Scores of moving digits: their class, and the distance from a legal trajectory.

Digits are classified by a support vector machine on single frames with their centre of
mass in the middle; a clip's class is by the sum of its frames' decision values. Motion
is the track of the centre of mass, compared with the nearest trajectory of constant
speed that bounces off two walls.
"""

import numpy as np
from einops import rearrange, reduce
from sklearn import svm

from vdm_jax.metrics import frames, frechet

DARK = 0.1  # values below this are background
CROP = 12  # side in pixels of the classifier's input


def pixel_brightness(videos):
  """Brightness [N, T, H, W] in [0, 1] of videos [N, T, H, W, 3] uint8; background 0."""
  videos = np.asarray(videos)
  if videos.ndim != 5 or videos.dtype != np.uint8:
    raise ValueError(
      f"Videos of shape {videos.shape} and type {videos.dtype}; expected uint8 "
      "[N, T, H, W, 3]."
    )
  grey = reduce(videos.astype(np.float32) / 255.0, "n t h w c -> n t h w", "mean")
  return np.where(grey < DARK, 0.0, grey)


def centres_of_mass(videos):
  """Centres of mass [N, T, 2], (y, x) in pixels, of uint8 videos [N, T, H, W, 3].

  The middle for an empty frame.
  """
  light = pixel_brightness(videos)
  mass = light.sum((2, 3))
  height, width = light.shape[2:]
  y = np.einsum("nthw,h->nt", light, np.arange(height))
  x = np.einsum("nthw,w->nt", light, np.arange(width))
  found = np.stack([y, x], -1) / np.maximum(mass, 1e-6)[..., None]
  middle = np.array([height - 1, width - 1]) / 2
  return np.where(mass[..., None] > 0, found, middle)


def crop_centred_frames(videos):
  """Brightness [N, T, 12, 12] of uint8 videos [N, T, H, W, 3], cropped.

  Bilinearly, around the centre of mass of each frame.
  """
  light, at = pixel_brightness(videos), centres_of_mass(videos)
  n = light.shape[0]
  frames = rearrange(light, "n t h w -> (n t) h w")
  corner = rearrange(at, "n t i -> (n t) i") - (CROP - 1) / 2
  whole = np.floor(corner).astype(int)
  part = corner - whole
  frames = np.pad(frames, ((0, 0), (CROP, CROP), (CROP, CROP)))
  i = np.arange(CROP + 1)
  rows = (whole[:, 0, None] + CROP + i)[:, :, None]
  columns = (whole[:, 1, None] + CROP + i)[:, None, :]
  cut = frames[np.arange(len(frames))[:, None, None], rows, columns]
  y, x = part[:, 0, None, None], part[:, 1, None, None]
  cut = (1 - y) * cut[:, :-1] + y * cut[:, 1:]
  cut = (1 - x) * cut[:, :, :-1] + x * cut[:, :, 1:]
  return rearrange(cut, "(n t) h w -> n t h w", n=n)


def handwriting_change(videos, num_reference_frames=None):
  """Mean absolute difference [N, T], in grey levels, of frames from their clip's mean.

  Frames of uint8 videos [N, T, H, W, 3] are first cropped around their centre of mass.
  The mean is that of the first `num_reference_frames`, or of all where it is None.
  """
  crops = 255.0 * crop_centred_frames(videos)
  mean = reduce(crops[:, :num_reference_frames], "n t h w -> n 1 h w", "mean")
  return reduce(np.abs(crops - mean), "n t h w -> n t", "mean")


class DigitClassifier:
  """A classifier of digits, a support vector machine on one random frame of each clip.

  Args:
    videos: [N, T, H, W, 3] uint8, the training clips.
    labels: [N], the digits.
    seed: of the random frames.
  """

  def __init__(self, videos, labels, *, seed=0):
    labels = np.asarray(labels)
    frames = crop_centred_frames(videos)
    drawn = np.random.default_rng(seed).integers(frames.shape[1], size=len(frames))
    chosen = rearrange(frames[np.arange(len(frames)), drawn], "n h w -> n (h w)")
    self.machine = svm.SVC(C=10.0, decision_function_shape="ovr").fit(chosen, labels)

  def features(self, videos):
    """Decision values [N, 10], one a digit, of uint8 videos, mean over their frames."""
    frames = crop_centred_frames(videos)
    values = self.machine.decision_function(rearrange(frames, "n t h w -> (n t) (h w)"))
    return reduce(values, "(n t) k -> n k", "mean", n=len(frames))

  def classify_frames(self, videos):
    """The digit, int [N, T], of each frame of uint8 videos [N, T, H, W, 3]."""
    cut = crop_centred_frames(videos)
    found = self.machine.predict(rearrange(cut, "n t h w -> (n t) (h w)"))
    return rearrange(found, "(n t) -> n t", n=len(cut))

  def classify(self, videos):
    """The digit, int [N], of each clip of uint8 videos [N, T, H, W, 3]."""
    return self.machine.classes_[self.features(videos).argmax(-1)]


def mean_speed(videos):
  """Mean speed [N] of the centre of mass, in pixels a frame, of uint8 videos."""
  return np.linalg.norm(np.diff(centres_of_mass(videos), axis=1), axis=-1).mean(-1)


def motion_error(videos, *, digit_size=8, max_speed=3.0):
  """RMS distance [N], in pixels, of centres of mass from the nearest legal trajectory.

  It has constant velocity and bounces off the walls. The search is separate for both
  axes: start, velocity up to `max_speed` pixels a frame, and the position of the centre
  of mass in the digit's box of `digit_size` pixels. Videos are uint8 [N, T, H, W, 3].
  """
  track = centres_of_mass(videos)
  parts = []
  chunk = max(1, 64 * 8**2 // track.shape[1] ** 2)  # bounds the memory
  for rows in np.array_split(track, -(-len(track) // chunk)):
    axes = zip(rearrange(rows, "n t i -> i n t"), np.shape(videos)[2:4], strict=True)
    off = [_off_path(r, size - digit_size, digit_size, max_speed) for r, size in axes]
    parts.append(sum(off))
  return np.sqrt(np.concatenate(parts))


def path_error(videos, real, mask):
  """Distance [N, T], in pixels, of the centres of mass of `videos` and `real` videos.

  0 where `mask` [T] is True, the known frames; they must determine the trajectory.
  """
  gap = np.linalg.norm(centres_of_mass(videos) - centres_of_mass(real), axis=-1)
  return np.where(mask, 0.0, gap)


class CompletionScorer:
  """(videos, real, labels [N], mask [T]) -> {score: float or list of T floats}.

  Floats: "read right", the share of clips whose digit is that of `labels`; medians over
  clips of "path error (pixels)" and "psnr (dB)", both to the `real` clips, and of
  "motion error (pixels)". All but the last are of the frames that were not known, where
  `mask` is False. Lists of all T frames: "read right by frame", shares of clips, and
  "path error by frame", medians over clips, 0 for known frames.

  `videos` and `real` are uint8 [N, T, H, W, 3].

  Args:
    train: a source of clips to which the digit classifier is fitted.
    train_clips: number of these clips.
    seed: of the classifier's frames.
  """

  def __init__(self, train, train_clips=4000, seed=0):
    records = [train[i] for i in range(min(train_clips, len(train)))]
    videos, labels = (np.stack([r[k] for r in records]) for k in ("video", "label"))
    self.classifier = DigitClassifier(videos, labels, seed=seed)

  def __call__(self, videos, real, labels, mask):
    new = ~np.asarray(mask)
    distance = path_error(videos, real, mask)
    right = self.classifier.classify_frames(videos) == labels[:, None]
    return {
      "read right": float((self.classifier.classify(videos[:, new]) == labels).mean()),
      "motion error (pixels)": float(np.median(motion_error(videos))),
      "path error (pixels)": float(np.median(distance[:, new].mean(1))),
      "psnr (dB)": float(
        np.median(frames.psnr_per_video(videos[:, new], real[:, new]))
      ),
      "path error by frame": np.median(distance, axis=0).tolist(),
      "read right by frame": right.mean(0).tolist(),
    }


def reflect(positions, room):
  """Positions on a line, reflected at two walls to positions in [0, room]."""
  inside = np.mod(positions, 2.0 * room)
  return np.where(inside > room, 2.0 * room - inside, inside)


def _off_path(track, room, digit, max_speed):
  """Mean squared distance [N] of tracks [N, T] from the nearest bouncing path.

  A coarse grid over start and velocity, each with its best offset in closed form, then
  three ever finer grids around the best.
  """
  frames = np.arange(track.shape[1])
  middle = (digit - 1) / 2
  slack = digit / 4  # a digit's centre of mass is this near to its box's middle

  def errors(start, velocity):  # [N or 1, K] each -> [N, K]
    paths = reflect(start[..., None] + velocity[..., None] * frames, room)
    gap = track[:, None] - paths - middle
    offset = np.clip(gap.mean(-1, keepdims=True), -slack, slack)
    return np.square(gap - offset).mean(-1)

  # A wrong velocity is a wrong place later: the longer, the finer.
  count = 1 + 30 * max(1, track.shape[1] // 8)
  starts, velocities = np.linspace(0, 2 * room, 65), np.linspace(0, max_speed, count)
  return grid_search(errors, starts, velocities, levels=4)[1]


def grid_search(errors, starts, velocities, levels):
  """((start, velocity) [N, 2] of the least error, that error [N]), on finer grids.

  Args:
    errors: function (starts, velocities), each [N or 1, K] -> errors [N, K].
    starts, velocities: evenly spaced values of the first grid.
    levels: number of grids; each next one is 4 times finer, around the best point.
  """
  at = np.stack(np.meshgrid(starts, velocities), -1).reshape(1, -1, 2)
  step = np.array([starts[1] - starts[0], velocities[1] - velocities[0]])
  near = np.stack(np.meshgrid(*2 * [np.linspace(-1, 1, 9)]), -1).reshape(-1, 2)
  for _ in range(levels):
    found = errors(at[..., 0], at[..., 1])
    candidates = np.broadcast_to(at, (len(found), *at.shape[1:]))
    best = candidates[np.arange(len(found)), found.argmin(1)]
    at, step = best[:, None] + near * step, step / 4
  return best, found.min(1)


def digit_score_rows(evaluation, *, seed=0, still=0.25):
  """[Row (name, Scores of samples and of real clips)] of classification and motion.

  Args:
    evaluation: an EvaluationData, with labels.
    seed: of the frames to which the classifier is fitted.
    still: speed in pixels a frame below which a clip is static.
  """
  train = evaluation.train
  classifier = DigitClassifier(train.videos, train.labels, seed=seed)
  fitted = {"extractor": f"support vector machine, {CROP} x {CROP} centred frames"}
  settings = {"fitted_to": len(train), "reader_seed": seed}

  def right(clips):
    return (classifier.classify(clips.videos) == clips.labels).mean()

  features = {
    name: classifier.features(clips.videos)
    for name, clips in (("samples", evaluation.samples), ("real", evaluation.real))
  }
  # The reference is the training split; real clips are at some distance from it, too.
  reference = classifier.features(train.videos)

  def from_train(clips):
    name = "samples" if clips is evaluation.samples else "real"
    return frechet.distance(features[name], reference)

  static = lambda clips: (mean_speed(clips.videos) < still).mean()
  return [
    evaluation.row("read as the asked digit", right, settings=settings, **fitted),
    evaluation.row(
      "frechet distance of votes",
      from_train,
      settings={**settings, "ddof": 1},
      **fitted,
    ),
    evaluation.row("static clips", static, settings={"still": still}),
    evaluation.row(
      "speed (pixels a frame)", lambda clips: mean_speed(clips.videos).mean()
    ),
    evaluation.row(
      "motion error (pixels)", lambda clips: np.median(motion_error(clips.videos))
    ),
  ]
