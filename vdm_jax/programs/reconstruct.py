"""Scores an autoencoder's reconstructions of held-out clips."""

import jax
import numpy as np
from einops import rearrange, reduce

from vdm_jax import video_io
from vdm_jax.metrics import frames, score
from vdm_jax.programs import job as job_lib

PEAK = 255.0


def reconstruct_and_score(
  job, *, task, weights, source, batch_size=8, preview_clips=4, folder="reconstruction"
):
  """Scores the reconstructions of held-out clips and writes <workdir>/<folder>.

  metrics.json has {metric: score} over all frames and "clips", {name: PSNR in dB};
  clips.png has first frames above their reconstructions.

  Args:
    job: programs.job.Job: workdir, mesh.
    task: tasks.autoencoding.Autoencoding.
    weights: the folder, under the workdir, of the stage that trained it.
    source: clips of one size, [i] -> {"video": uint8 [T, H, W, 3]}, name(i) -> str.
    batch_size: clips at a time.
    preview_clips: number of clips in clips.png.
  """
  params = job.weights(weights)
  draw = jax.jit(lambda params, x: video_io.to_uint8(task.reconstruct(params, x)))
  real = np.stack([source[i]["video"] for i in range(len(source))])
  made = job.map_batches(
    lambda batch: draw(params, batch["video"]), {"video": real}, batch_size
  )

  values, each = reconstruction_scores_and_clip_psnr(made, real)
  protocol = lambda name: score.Protocol(
    metric=name, frames=real.shape[1], count=len(real), settings={"peak": PEAK}
  )
  scores = {
    name: score.to_json(score.Score(value, protocol(name)))
    for name, value in values.items()
  }
  scores["clips"] = {
    source.name(i).rpartition("/")[2]: float(value) for i, value in enumerate(each)
  }
  place = job.workdir / folder
  job_lib.write_json(place / "metrics.json", scores)
  pairs = rearrange(
    [real[:preview_clips, 0], made[:preview_clips, 0]], "two n h w c -> (two n) 1 h w c"
  )
  columns = min(preview_clips, len(real))
  video_io.write_png(place / "clips.png", video_io.video_grid(pairs, columns)[0])
  job.print(f"{len(real)} clips of {real.shape[1]} frames, in {place}")
  job.print_table([{"": name, "value": value} for name, value in values.items()])


def reconstruction_scores_and_clip_psnr(reconstructed, real):
  """(scores, PSNR in dB of each clip, float [N]) of reconstructed videos.

  Args:
    reconstructed, real: uint8 [N, T, H, W, C].

  Returns:
    The scores are {name: float}: "psnr (dB)", the mean of the frames' as papers report
    it; "psnr of the worst clip (dB)", "psnr of the worst frame (dB)"; "psnr of the mean
    squared error (dB)", lower as the worst frames dominate it; and "ssim".
  """
  each = frames.psnr_per_video(reconstructed, real, peak=PEAK)
  error = np.square(np.asarray(reconstructed, np.float64) - real)
  error = reduce(error, "n t h w c -> n t", "mean")
  ratio = lambda error: float(frames.psnr_from_mse(error, peak=PEAK))
  return {
    "psnr (dB)": float(each.mean()),
    "psnr of the worst clip (dB)": float(each.min()),
    "psnr of the worst frame (dB)": ratio(error.max()),
    "psnr of the mean squared error (dB)": ratio(error.mean()),
    "ssim": float(frames.ssim_per_video(reconstructed, real, peak=PEAK).mean()),
  }, each
