"""Records torch files and what is in them: golden/torch.pt, torch.npz, torch_small.pt.

python -m tests.parity.record_torch
"""

import collections

import torch

from tests.parity import record
from tests.support import golden_files

TYPES = (
  *(torch.float32, torch.float16, torch.bfloat16, torch.float64),
  *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
  *(torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e8m0fnu),
  *(torch.float8_e5m2, torch.float8_e5m2fnuz, torch.complex64),
  *(torch.uint16, torch.uint32, torch.uint64),
)


def numbers(*shape, dtype=torch.float32):
  torch.manual_seed(0)
  return (3 * torch.randn(shape)).to(dtype)


def widened(x):
  """The tensor in double precision, which numpy has of every type."""
  return x.detach().to(torch.complex128 if x.is_complex() else torch.float64)


def network():
  layers = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))
  layers.register_buffer("count", torch.tensor(3))
  return layers


def trees():
  x = numbers(4, 6)
  trained = network()
  optimizer = torch.optim.AdamW(trained.parameters(), betas=(0.9, 0.99))
  trained(numbers(2, 3)).sum().backward()
  optimizer.step()
  return {
    "plain": {"a": x, "b": numbers(3)},
    "types": {str(dtype): numbers(2, 3, dtype=dtype) for dtype in TYPES},
    "shapes": {"()": numbers(), "(0,)": numbers(0), "(2, 0)": numbers(2, 0)}
    | {"(1, 1)": numbers(1, 1), "(2, 1, 3)": numbers(2, 1, 3)},
    "views": dict(whole=x, row=x[2], column=x[:, 1], turned=x.T, part=x[1:3, 2:])
    | dict(steps=x[::2, ::3], again=x, folded=x.T.reshape(3, 8))
    | dict(spread=x[:1].expand(5, 6), unit=x[:, :1].T),
    "state dict": trained.state_dict(),
    "parameters": dict(trained.named_parameters()),
    "ordered": collections.OrderedDict(x=x, inside=collections.OrderedDict(y=x)),
    "wrapped": {"ema": trained.state_dict(), "model": network().state_dict()},
    "training": {"model": trained.state_dict(), "opt": optimizer.state_dict()}
    | {"step": 2**40, "loss": 0.25, "name": "Latte", "ema": None, "done": False}
    | {"rates": [0.1, (1, -2, 300), [], {}, ()], 7: "seven"},
    "many": {f"layer.{i}": numbers(2) + i for i in range(700)},  # long marks, memo
  }


TREES = trees()


def main():
  """Writes all trees but the long one, and a small file."""
  trees = {k: x for k, x in TREES.items() if k != "many"}
  torch.save(trees, golden_files.GOLDEN / "torch.pt")
  small = {"x": numbers(3, 5), "y": numbers(4).half()}
  torch.save(small, golden_files.GOLDEN / "torch_small.pt")
  tensors = golden_files.flat(trees).items()
  tensors = {k: x for k, x in tensors if isinstance(x, torch.Tensor)}
  record.write("torch", {}, {k: widened(x).numpy() for k, x in tensors.items()})


if __name__ == "__main__":
  main()
