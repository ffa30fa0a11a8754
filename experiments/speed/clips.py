"""Clips per second from mp4: our loader, PyAV in a loop, torch's DataLoader.

Each contender is a process of its own that stands still until it is told to go: nobody
works while another one is measured.

python -m experiments.speed.clips CONTENDER FOLDER SETTINGS
"""

import json
import os
import pathlib
import subprocess
import sys

import av
import numpy as np

from experiments.speed import rows, timing

TARGET = 1.5  # of clips per second and core, over the plain loop
BATCHES = 16  # of a round: more than any contender reads ahead


def plain(path, start, settings):
  """A clip, uint8 [T, H, W, 3]: all frames as pictures, then those that are wanted."""
  with av.open(os.fspath(path)) as container:
    video = [x.to_ndarray(format="rgb24") for x in container.decode(video=0)]
  return np.stack(video)[start :: settings["interval"]][: settings["frames"]]


def lean(path, start, settings):
  """The same clip: only the frames that are wanted become pictures."""
  every, found = settings["interval"], []
  with av.open(os.fspath(path)) as container:
    for i, x in enumerate(container.decode(video=0)):
      if i >= start and (i - start) % every == 0:
        found.append(x.to_ndarray(format="rgb24"))
      if len(found) == settings["frames"]:
        break
  return np.stack(found)


class Dataset:
  """What torch.utils.data wants: clips of random videos, each from a random start."""

  def __init__(self, paths, settings, read):
    self.paths, self.settings, self.read = paths, settings, read

  def __len__(self):
    return 10**6  # it never ends

  def __getitem__(self, i):
    rng = np.random.default_rng(i)
    path = self.paths[rng.integers(len(self.paths))]
    span = (self.settings["frames"] - 1) * self.settings["interval"] + 1
    start = int(rng.integers(self.settings["length"] - span + 1))
    return self.read(path, start, self.settings)


def loop(read):
  """Batches by a plain loop on one core."""

  def batches(folder, settings):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
    dataset, i = Dataset(sorted(folder.glob("*.mp4")), settings, read), 0
    while True:
      yield np.stack([dataset[i + k] for k in range(settings["batch"])])
      i += settings["batch"]

  return batches


def data_loader(read):
  """Batches by torch.utils.data, a worker for each core."""

  def batches(folder, settings):
    import torch.utils.data

    return iter(
      torch.utils.data.DataLoader(
        Dataset(sorted(folder.glob("*.mp4")), settings, read),
        batch_size=settings["batch"],
        num_workers=timing.CORES,
      )
    )

  return batches


def ours(workers):
  """Batches by our loader, of processes, or of threads where there are none."""

  def batches(folder, settings):
    from vdm_jax.data import folders, loader

    source = folders.videos(folder, settings["frames"], settings["interval"])
    made = loader.Loader(source, settings["batch"], num_workers=workers)
    return (batch["video"] for batch in made)

  return batches


CONTENDERS = {
  "PyAV loop": (1, loop(plain)),
  "PyAV loop, wanted frames only": (1, loop(lean)),
  "torch DataLoader": (timing.CORES, data_loader(plain)),
  "torch DataLoader, wanted frames only": (timing.CORES, data_loader(lean)),
  "ours": (timing.CORES, ours(timing.CORES)),
  "ours, threads": (timing.CORES, ours(0)),
}


def make_videos(folder, settings):
  """mp4 files of soft clouds that drift, with some noise: nothing a codec skips."""
  from vdm_jax import video_io

  size, length = settings["size"], settings["length"]
  for i in range(settings["videos"]):
    rng = np.random.default_rng(i)
    coarse = rng.uniform(0, 255, (size // 16 + 9, size // 16 + 9, 3))
    large = coarse.repeat(16, axis=0).repeat(16, axis=1)
    for _ in range(3):  # blurs
      for axis in (0, 1):
        large = sum(np.roll(large, k, axis) for k in range(-8, 9)) / 17
    steps = rng.integers(0, 3, 2)
    video = np.stack(
      [
        large[a : a + size, b : b + size]
        for a, b in np.minimum(np.arange(length)[:, None] * steps, 9 * 16)
      ]
    )
    video = video + rng.normal(0, 4, video.shape)
    clip = np.clip(video, 0, 255).astype(np.uint8)
    video_io.write_mp4(folder / f"{i:03d}.mp4", clip, fps=24)


def serve(name, folder, settings):
  """Clips per second, whenever a line comes in."""
  _, make = CONTENDERS[name]
  made = make(folder, settings)
  for _ in sys.stdin:
    # What was read ahead while others were measured is taken first, and not counted.
    for _ in range(BATCHES):
      next(made)
    seconds = timing.seconds(lambda: [next(made) for _ in range(BATCHES)])
    print(json.dumps(BATCHES * settings["batch"] / seconds), flush=True)


def measure(settings, repeats, folder):
  """Clips per second, and per second and core, of all contenders in turn."""
  cores = timing.take_cores()
  folder = pathlib.Path(folder)
  make_videos(folder, settings)
  size = sum(path.stat().st_size for path in folder.glob("*.mp4"))
  servers, found = {}, {name: [] for name in CONTENDERS}
  try:
    for name in CONTENDERS:
      command = [
        sys.executable,
        "-m",
        __name__,
        name,
        str(folder),
        json.dumps(settings),
      ]
      servers[name] = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
      )
    for number in range(repeats + 1):
      for name, server in servers.items():
        server.stdin.write("go\n")
        server.stdin.flush()
        rate = float(server.stdout.readline())
        if number:  # the first one warms up
          found[name].append(rate)
  finally:
    for server in servers.values():
      server.stdin.close()  # which ends it
      try:
        server.wait(timeout=30)
      except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
  rates = {name: timing.spread(values) for name, values in found.items()}
  per_core = {
    name: rates[name]["median"] / min(n, cores) for name, (n, _) in CONTENDERS.items()
  }
  best = max(per_core[name] for name in per_core if name.startswith("ours"))
  over = lambda name: best / per_core[name]
  return dict(
    clips_per_second=rates,
    clips_per_second_and_core={k: round(x, 2) for k, x in per_core.items()},
    bytes_of_a_video=size // settings["videos"],
    claims=[
      rows.claim(
        "clips per second and core, over PyAV in a loop",
        over("PyAV loop"),
        TARGET,
        most=False,
      ),
    ],
    over={name: round(over(name), 3) for name in per_core},
  )


def main():
  _, name, folder, settings = sys.argv
  serve(name, pathlib.Path(folder), json.loads(settings))


if __name__ == "__main__":
  main()
