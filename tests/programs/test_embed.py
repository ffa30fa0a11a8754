"""Texts are embedded as the original does it, once, and kept with what they say."""

import jax
import numpy as np
import pytest

from tests.support.published import pipelines
from vdm_jax import sharding
from vdm_jax.conditioners import conditioner
from vdm_jax.data import records, sources
from vdm_jax.pipelines import text_encoder
from vdm_jax.programs import embed, job

LENGTH, TEXTS = pipelines.LENGTH, pipelines.TEXTS


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
  folder = pipelines.write("text_encoder", tmp_path_factory.mktemp("bert"))
  return text_encoder.TextEncoder(folder, LENGTH, batch_size=2)


@pytest.fixture(scope="module")
def embedded(encoder):
  with jax.default_matmul_precision("highest"):
    return encoder(TEXTS)


def stage(tmp_path):
  return job.Job(tmp_path, "embed", 0, sharding.make_mesh(dict(data=-1)), (), {})


def test_values_and_masks_are_the_originals(encoder, embedded):
  recorded = pipelines.read("text_encoder")
  expected = recorded["values"]
  values, mask = embedded
  assert values.shape == (3, LENGTH, pipelines.WIDTH) and values.dtype == np.float32
  np.testing.assert_array_equal(mask, recorded["mask"].astype(bool))
  tolerance = 1e-4 * max(1.0, np.abs(expected[mask]).max())
  assert np.abs(values - expected)[mask].max() < tolerance
  # Negative control: a text in the place of another.
  assert np.abs(values[[0, 0, 2]] - expected)[mask].max() > 100 * tolerance


def test_the_length_of_the_padding_changes_nothing(encoder, embedded):
  shorter = text_encoder.TextEncoder(encoder.folder, 12, batch_size=3)
  with jax.default_matmul_precision("highest"):
    values, mask = shorter(TEXTS)
  assert mask.sum(1).tolist() == embedded[1].sum(1).tolist()
  np.testing.assert_allclose(values[mask], embedded[0][embedded[1]], atol=1e-4)


def test_a_text_that_is_too_long_is_refused_and_not_cut_off(encoder):
  with pytest.raises(ValueError, match="tokens; length=14 are read"):
    encoder.tokenize(["one", "a seven " * 10])


def test_texts_are_embedded_once(encoder, embedded, tmp_path, capsys):
  embed.run(stage(tmp_path), texts=lambda: list(TEXTS), encoder=encoder)
  folder = tmp_path / "texts"
  assert records.read_meta(folder)["texts"] == list(TEXTS)
  held = sources.in_memory(sources.RecordFolder(folder)).arrays
  np.testing.assert_array_equal(held["text_mask"], embedded[1])
  assert held["text"].dtype == np.float16
  mask = embedded[1]
  np.testing.assert_allclose(
    held["text"][mask], embedded[0][mask], rtol=2e-3, atol=2e-3
  )

  before = (folder / records.META).stat().st_mtime_ns
  embed.run(stage(tmp_path), texts=lambda: list(TEXTS), encoder=encoder)
  assert "embedded already" in capsys.readouterr().out
  assert before == (folder / records.META).stat().st_mtime_ns
  with pytest.raises(ValueError, match="other texts; delete the folder"):
    embed.run(stage(tmp_path), texts=lambda: ["another"], encoder=encoder)


def test_prompts_are_signals_that_the_conditioner_reads(encoder, embedded):
  signals = embed.repeated_prompt_signals(encoder=encoder, texts=TEXTS, repeats=2)
  assert signals["label"].tolist() == [0, 0, 1, 1, 2, 2]
  np.testing.assert_allclose(signals["text"][::2], embedded[0], atol=1e-4)
  cond, null = conditioner.Text()(signals)
  np.testing.assert_array_equal(cond.tokens["text"].mask[1::2], embedded[1])
  assert not null.tokens["text"].mask.any()
  assert embed.repeated_prompt_signals(encoder=encoder, texts=TEXTS)["text"].shape == (
    3,
    LENGTH,
    pipelines.WIDTH,
  )


def test_a_negative_prompt_stands_in_the_place_of_no_text(encoder, embedded):
  assert embed.unpadded_negative_embedding(encoder=encoder) is None
  null = embed.unpadded_negative_embedding(encoder=encoder, text=TEXTS[1])
  signals = embed.repeated_prompt_signals(encoder=encoder, texts=TEXTS, repeats=1)
  _, empty = conditioner.Text(null=null)(signals)
  text = empty.tokens["text"]
  assert (np.asarray(text.mask) == embedded[1][1]).all()
  for row in np.asarray(text.values):
    np.testing.assert_allclose(
      row[embedded[1][1]], embedded[0][1][embedded[1][1]], atol=1e-4
    )


def test_what_is_not_there_is_named(tmp_path):
  with pytest.raises(ModuleNotFoundError, match=r"vdm_jax\[text\]"):
    text_encoder.packaged_folder("no_such_package_of_weights")
  with pytest.raises(FileNotFoundError, match="vocabulary"):
    text_encoder.TextEncoder(tmp_path, 8).tokenize(["a"])
