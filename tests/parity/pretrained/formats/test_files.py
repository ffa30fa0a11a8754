"""What the originals save is read, whole or in shards, of every type."""

import diffusers
import numpy as np
import pytest
import torch
import transformers

from vdm_jax.pretrained.formats import files


def originals():
  """(an original of each library, {name: array})."""
  text = transformers.T5Config(
    d_model=8, d_kv=4, d_ff=6, num_layers=2, num_heads=2, vocab_size=9
  )
  network = dict(num_attention_heads=2, attention_head_dim=4, num_layers=2)
  network |= dict(in_channels=4, sample_size=4, num_embeds_ada_norm=3)
  return {
    "transformers": transformers.T5EncoderModel(text),
    "diffusers": diffusers.DiTTransformer2DModel(**network),
  }


@pytest.mark.parametrize("max_shard_size", ["10GB", "1KB"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("library", ["transformers", "diffusers"])
@pytest.mark.parametrize("variant", [None, "fp16"])
def test_what_the_originals_save_is_read(
  tmp_path, library, dtype, max_shard_size, variant
):
  theirs = originals()[library].to(dtype)
  theirs.save_pretrained(tmp_path, max_shard_size=max_shard_size, variant=variant)
  names = [f.name for f in tmp_path.iterdir()]
  assert any("-of-" in n for n in names) == (max_shard_size == "1KB")
  assert any("fp16" in n for n in names) == (variant == "fp16")
  found = files.open_tensors(tmp_path)
  wanted = {k: v for k, v in theirs.state_dict().items() if k in found}
  assert len(wanted) >= len(theirs.state_dict()) - 1  # T5's second table of tokens
  for name, x in wanted.items():
    got = torch.from_numpy(np.asarray(found[name]).astype(np.float32))
    assert str(found[name].dtype) == str(dtype).removeprefix("torch.")
    assert torch.equal(got, x.float()), name
