"""The Frechet video distance (FVD).

The distance of I3D's 400 logits, https://arxiv.org/abs/1812.01717, as StyleGAN-V fixed
it (https://arxiv.org/abs/2112.14683) and Latte uses it: 2,048 clips of each kind,
frames resized to 224 x 224, covariances divided by N. It falls as the number of clips
rises, so the protocol holds that number, and numbers of other sizes do not compare.
"""

import functools

import jax
from absl import logging

from vdm_jax import batches
from vdm_jax.metrics import frechet, i3d, weights

CLIPS = 2048  # of the published protocol


class I3DFeatures:
  """I3D as a feature extractor: `features(videos)` -> logits [N, 400].

  Args:
    i3d_file: I3D's weights with pytorch_i3d's names, .safetensors or .npz.
    batch_size: clips of one call of the network.
  """

  def __init__(self, i3d_file, batch_size=8):
    self.params = i3d.from_state_dict(weights.read_arrays(i3d_file))
    self.batch_size = batch_size
    self._apply = jax.jit(lambda params, x: i3d.logits(params, i3d.preprocess(x)))

  def features(self, videos):
    """Logits [N, 400] of uint8 videos [N, T, H, W, 3], T at least 10."""
    logits = lambda batch: self._apply(self.params, batch["video"])
    return batches.map_batches(logits, {"video": videos}, self.batch_size)


def fvd_score_rows(evaluation, *, i3d_file, ddof=0, batch_size=8):
  """[Row (name, Scores of samples and of real clips)]: FVD to the training split.

  Args:
    evaluation: an EvaluationData, with `samples`, `real` and `train` clips.
    i3d_file: I3D's weights with pytorch_i3d's names, .safetensors or .npz; "" leaves
      the metric out, with a warning: the list is empty.
    ddof: 0 divides covariances by N (StyleGAN-V), 1 by N - 1 (original FVD).
    batch_size: clips of one call of the network.
  """
  if not i3d_file:
    logging.warning("FVD is left out: it needs a file of I3D's weights.")
    return []
  evaluation.check_alike("train")
  extractor = I3DFeatures(i3d_file, batch_size)
  reference = extractor.features(evaluation.train.videos)
  fields = dict(
    extractor="I3D logits, Kinetics-400",
    resize=f"bilinear to {i3d.SIZE} x {i3d.SIZE}, no antialiasing",
    settings={"ddof": ddof, "reference": len(reference), "published": CLIPS},
  )
  distance = functools.partial(frechet.distance, y=reference, ddof=ddof)
  measure = lambda clips: distance(extractor.features(clips.videos))
  return [evaluation.row("FVD", measure, **fields)]
