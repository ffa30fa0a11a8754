"""Records torch files and what is in them: golden/torch.pt, torch.npz, torch_small.pt.

python -m tests.parity.record_torch
"""

import torch

from tests.parity import record
from tests.parity.pretrained.formats import test_torch_file
from tests.pretrained.formats.test_torch_file import flat
from tests.support import golden_files


def main():
  """Writes all trees of the parity test but the long one, and a small file."""
  trees = {k: x for k, x in test_torch_file.TREES.items() if k != "many"}
  torch.save(trees, golden_files.GOLDEN / "torch.pt")
  numbers = test_torch_file.numbers
  small = {"x": numbers(3, 5), "y": numbers(4).half()}
  torch.save(small, golden_files.GOLDEN / "torch_small.pt")
  tensors = {k: x for k, x in flat(trees).items() if isinstance(x, torch.Tensor)}
  record.write(
    "torch", {}, {k: x.detach().double().numpy() for k, x in tensors.items()}
  )


if __name__ == "__main__":
  main()
