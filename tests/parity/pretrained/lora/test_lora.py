"""A LoRA of transformers' CLIP, out of a torch file, runs as hooks in torch do."""

import jax
import numpy as np
import torch
import transformers

from tests.parity import originals, pipelines
from vdm_jax.models import lora as running
from vdm_jax.pretrained import state_dict
from vdm_jax.pretrained.lora import lora
from vdm_jax.pretrained.tables.encoders import clip


def test_q_and_v_of_clip_are_parts_of_one_kernel_and_still_run(tmp_path):
  """Magic Text-Encoder's kind; of the second layer only k, with another rank.

  The file is wrapped and holds a config too.
  """
  torch.manual_seed(0)
  config = transformers.CLIPTextConfig(
    hidden_size=12,
    **pipelines.TWO_LAYERS,
    vocab_size=40,
    max_position_embeddings=11,
    eos_token_id=39,
  )
  theirs = originals.filled(transformers.CLIPTextModel(config), 0)
  state = {k: x.numpy().copy() for k, x in theirs.state_dict().items()}
  module = clip.TEXT.from_config(config.to_dict())
  params = state_dict.from_state_dict(module, state)
  ids = np.random.default_rng(1).integers(0, 39, (2, 9))
  ids[:, 7:] = 39

  found = {}
  for layer, rank in (("0.q_proj", 2), ("0.v_proj", 2), ("1.k_proj", 3), ("0.fc2", 1)):
    i, name = layer.split(".")
    part = "mlp" if name == "fc2" else "self_attn"
    prefix = next(k for k in state if k.endswith(f"layers.{i}.{part}.{name}.weight"))
    linear = theirs.get_submodule(prefix.removesuffix(".weight"))
    down = torch.randn(rank, linear.in_features)
    up = torch.randn(linear.out_features, rank)
    linear.register_forward_hook(lambda _, x, y, d=down, u=up: y + x[0] @ d.T @ u.T)
    name = f"text_encoder.text_model.encoder.layers.{i}.{part}.{name}"
    found[f"{name}.lora_A.weight"], found[f"{name}.lora_B.weight"] = down, up
  with torch.no_grad():
    expected = theirs(torch.from_numpy(ids)).last_hidden_state.numpy()

  wrapped = {"state_dict": {**found, "animatediff_config": "none"}}
  torch.save(wrapped, tmp_path / "lora.ckpt")
  own = lora.load(module, tmp_path / "lora.ckpt")
  qkv = own["blocks"]["attention"]["qkv"]["kernel"]
  assert qkv["down"].shape == (2, 12, 4) and qkv["up"].shape == (2, 4, 36)
  network = running.Lora(module, "qkv|mlp_out")
  with jax.default_matmul_precision("highest"):
    out, plain = (
      np.asarray(jax.jit(n.apply)({"params": p}, ids))
      for n, p in ((network, {"base": params, "lora": own}), (module, params))
    )
  bound = 1e-4 * max(1, np.abs(expected).max())
  assert np.abs(out - expected).max() <= bound
  assert np.abs(plain - expected).max() > 100 * bound, "without it, it is seen"
