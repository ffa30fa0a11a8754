"""The rows of the table: what is done, by whom, and what is to be reached."""

import dataclasses
import importlib

BOUND = 1e-4  # on the difference of two contenders, over the largest value
COMPILED = ("torch", "torch.compile")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contest:
  """The same work by torch and by ours, in one process and in processes of their own.

  Attributes:
    what: of the modules `<work>_torch` and `<work>_ours`, the function.
    settings, quick: of that function; quick ones show that everything runs.
    names: torch's contenders. Ours is compared with the fastest of `against`.
    target: of our time over theirs.
    peak: whether matrix products take turns with the contenders.
    calls: compared before anything is timed.
    rounds: at most so many.
    light: settings in which memory is measured, where they make no difference to it.
    mkl: whether torch's matrix products are on MKL's fast path, see mkl.py.
    named: measured only if `--rows` has its whole name.
  """

  title: str
  work: str
  what: str
  settings: dict
  quick: dict
  target: float | None
  names: tuple = ("torch",)
  against: tuple = ("torch",)
  peak: bool = False
  calls: int = 1
  rounds: int = 7
  light: dict = dataclasses.field(default_factory=dict)
  mkl: bool = False
  named: bool = False

  def theirs(self, settings, names, folder):
    module = importlib.import_module(f"experiments.speed.{self.work}_torch")
    return getattr(module, self.what)(settings, names, folder)

  def ours(self, settings, theirs, folder):
    module = importlib.import_module(f"experiments.speed.{self.work}_ours")
    return getattr(module, self.what)(settings, theirs, folder)

  def flops(self, settings, folder):
    module = importlib.import_module(f"experiments.speed.{self.work}_ours")
    return getattr(module, f"{self.what}_flops")(settings, folder)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Course:
  """What needs fresh processes: `module`.measure(settings, repeats, folder) -> dict."""

  title: str
  module: str
  settings: dict
  quick: dict

  def measure(self, settings, repeats, folder):
    module = importlib.import_module(f"experiments.speed.{self.module}")
    return module.measure(settings, repeats, folder)


SIZES = {
  "S": dict(depth=12, width=384, num_heads=6),
  "B": dict(depth=12, width=768, num_heads=12),
}
CLIP = dict(frames=16, side=32)
TINY = dict(depth=2, width=32, num_heads=2, frames=4, side=8)
STABLE = dict(channels=(128, 256, 512, 512), layers=2)  # Stable Diffusion's
SMALL = dict(channels=(32, 32, 32, 32), layers=1, size=32)


def _latte(what, size, batch, names=COMPILED, target=0.85, **more):
  forward = what == "forward"
  return Contest(
    title=f"{'forward' if forward else 'training step'}, Latte-{size}/2, batch {batch}"
    + (", MKL on its fast path" if target is None else ""),
    work="latte",
    what=what,
    settings=SIZES[size] | CLIP | dict(batch=batch),
    quick=TINY | dict(batch=batch),
    target=target,
    names=names,
    against=COMPILED,
    peak=forward,
    calls=1 if forward else 2,
    **more,
  )


def _clips(videos, length):
  return Course(
    title=f"clips of 16 frames from mp4 of {length}",
    module="clips",
    settings=dict(
      videos=videos, size=256, length=length, frames=16, interval=3, batch=4
    ),
    quick=dict(videos=4, size=64, length=length // 4, frames=4, interval=3, batch=2),
  )


FORMATS = ("torch, channels last", "torch")


def _autoencoder(what, title, frames, target, names=FORMATS, **more):
  return Contest(
    title=title,
    work="autoencoder",
    what=what,
    settings=STABLE | dict(size=256, frames=frames),
    quick=SMALL | dict(frames=2),
    target=target,
    names=names,
    against=names,
    **more,
  )


ONEDNN = (*COMPILED, "torch, oneDNN linear")
ROWS = {
  "forward_S_1": _latte("forward", "S", 1, ONEDNN),
  "forward_S_4": _latte("forward", "S", 4, ONEDNN),
  "forward_B_1": _latte("forward", "B", 1, ONEDNN),
  "forward_B_4": _latte("forward", "B", 4),
  # For a CPU that is not Intel's: on Intel's they are the rows without.
  "forward_S_1_mkl": _latte("forward", "S", 1, target=None, mkl=True, named=True),
  "train_S_1": _latte("train", "S", 1),
  "train_S_4": _latte("train", "S", 4),
  "train_B_1": _latte("train", "B", 1),
  # Ten minutes and, in both, all of a machine's 24 GB.
  "train_B_4": _latte("train", "B", 4, ("torch",), named=True),
  "train_S_1_mkl": _latte("train", "S", 1, target=None, mkl=True, named=True),
  "sample": Contest(
    title="50 steps of guided DDIM, text-to-video Latte, width 384, 8 blocks",
    work="sampling",
    what="sample",
    settings=dict(
      depth=8,
      width=384,
      num_heads=6,
      frames=16,
      size=256,
      tokens=120,
      text_width=512,
      steps=50,
      guidance=7.5,
    ),
    quick=dict(
      depth=2,
      width=32,
      num_heads=2,
      frames=4,
      size=64,
      tokens=6,
      text_width=16,
      steps=3,
      guidance=7.5,
    ),
    target=0.8,
    rounds=2,  # of 50 steps each
    light=dict(steps=3),
  ),
  "encode": _autoencoder("encode", "autoencoder, encode 16 frames at 256", 16, 0.9),
  # The slower of the two in encoding is left out: each call takes half a minute.
  "decode": _autoencoder(
    "decode", "autoencoder, decode 16 frames at 256", 16, 0.9, FORMATS[:1]
  ),
  "autoencoder_train": _autoencoder(
    "train", "autoencoder, training step, 1 frame at 256", 1, 1.0, calls=2
  ),
  "first_step": Course(
    title="time to the first training step",
    module="first_step",
    settings=SIZES["S"] | CLIP | dict(batch=1, depths=(12, 24, 48)),
    quick=TINY | dict(batch=1, depths=(2, 4, 8)),
  ),
  "clips": _clips(64, 48),
  "clips_long": _clips(16, 180),  # as long as UCF-101's are on average
}


def chosen(names):
  """The rows whose names begin with one of these, in order; for (), all that may be."""
  unknown = [n for n in names if not any(k.startswith(n) for k in ROWS)]
  if unknown:
    raise ValueError(f"--rows={','.join(unknown)}: no row begins so; of {list(ROWS)}.")
  begins = lambda k: not names or k.startswith(tuple(names))
  alone = lambda row: getattr(row, "named", False)
  return {k: v for k, v in ROWS.items() if k in names or begins(k) and not alone(v)}


def claim(what, value, target, *, most=True):
  """What is to be reached, at most or at least, and whether it is; None: nothing is."""
  value = float(f"{value:.4g}")
  reached = None
  if target is not None:
    reached = bool(value <= target if most else value >= target)
  return dict(claim=what, value=value, target=target, most=most, reached=reached)
