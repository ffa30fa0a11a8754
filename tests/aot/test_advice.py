"""Advice: every change is one that the config has, and its need is an arithmetic."""

from configs import latte
from vdm_jax.aot import advice, memory


def config(**network):
  cfg = latte.get_config("ucf101")
  cfg.train.loader.batch_size = 64
  with cfg.ignore_type():
    cfg.network.update(network)
  return cfg


def test_what_is_set_already_is_not_advised():
  cfg = config(remat="full", dtype="bfloat16")
  found = advice.memory_saving_changes(cfg, "train", {"data": 1, "fsdp": 16})
  fields = {field for change in found for field in change}
  assert fields == {"train.accumulate", "train.loader.batch_size"}
  assert {"train.accumulate": 4} in found
  assert {"train.loader.batch_size": 16} in found


def test_everything_is_advised_alone_and_then_together():
  cfg = config(remat="none", dtype="float32")
  found = advice.memory_saving_changes(cfg, "train", {"data": 16, "fsdp": 1})
  assert found[0] == {"network.dtype": "bfloat16"}
  assert {"mesh.data": 4, "mesh.fsdp": 4} in found
  together = {"network.dtype": "bfloat16", "network.remat": "full"}
  together |= {"mesh.data": 1, "mesh.fsdp": 16}
  assert together in found and together | {"train.accumulate": 2} in found
  assert all(found.count(change) == 1 for change in found)


def test_an_estimate_is_state_and_gradients_and_what_is_kept_and_workspace():
  needs = memory.MemoryUsage({"parameters": 100}, 1000, 7, 0, available=500)
  now = advice.StepMemory(state=100, gradients=40, saved=600, clips=4)

  def parts(flags):
    if flags == {"impossible": 1}:
      raise ValueError("there is no such mesh")
    return {
      "fewer": advice.StepMemory(state=100, gradients=40, saved=150, clips=1),
      "split": advice.StepMemory(state=50, gradients=20, saved=600, clips=4),
    }[next(iter(flags))]

  changes = [{"fewer": 1}, {"impossible": 1}, {"split": 1}]
  found = advice.estimate_memory_after_changes(needs, now, changes, parts)
  # 1000 - 40 - 600 = 360 of workspace; with one clip of four, 90.
  assert [row["total"] for row in found] == [
    100 + 40 + 150 + 90 + 7,
    50 + 20 + 600 + 360 + 7,
  ]
  assert [row["fits"] for row in found] == [True, False]


def test_a_change_is_said_as_a_flag():
  assert advice.to_flag("network.remat", "full") == "--config.network.remat=full"
