"""The command that makes videos of a published folder, as its user types it."""

import subprocess
import sys

import jax
import numpy as np
import pytest

from tests.support.published import pipelines
from vdm_jax.pipelines import load
from vdm_jax.programs import generate

PROMPTS = ["a dog in the snow", "two cats"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A whole text-to-video folder of the layout of Latte-1, tiny."""
  return pipelines.write("latte", tmp_path_factory.mktemp("Latte-tiny"))


def test_the_command_of_the_readme_makes_a_video(folder, tmp_path):
  command = [
    *(sys.executable, "-m", "vdm_jax.main", "--config=configs/latte.py:t2v"),
    *("--mode=sample", f"--workdir={tmp_path}", f"--config.pretrained={folder}"),
    *("--config.prompts=a dog in the snow", "--config.sample.steps=4"),
    "--config.sample.guidance=1.0",  # one row, on two devices
  ]
  first = subprocess.run(command, capture_output=True, text=True)
  assert first.returncode == 0, first.stderr
  made = np.load(tmp_path / "samples" / "videos.npz")
  assert made["video"].shape == (1, 3, 16, 16, 3) and made["video"].std() > 5
  assert list(made["prompt"]) == ["a dog in the snow"]
  assert (tmp_path / "samples" / "00000.mp4").stat().st_size > 100
  again = subprocess.run(command, capture_output=True, text=True)
  assert "there already" in again.stdout


def test_prompts_make_what_their_embeddings_make(folder):
  model = load.load(folder)
  call = lambda **what: model(key=jax.random.key(1), steps=3, **what)
  by_texts = call(prompts=PROMPTS)
  assert by_texts.shape == (2, 3, 16, 16, 3)
  by_values = call(
    embeddings=model.embed(PROMPTS), negative_embeddings=model.embed([""])
  )
  np.testing.assert_array_equal(by_texts, by_values)
  assert (by_texts != call(prompts=PROMPTS, negative="two cats")).any()
  plain = call(prompts=PROMPTS, guidance=1)
  assert (by_texts != plain).any()


def test_prompts_are_read_in_each_form(tmp_path):
  assert generate.read_nonempty_prompts("a dog") == ["a dog"]
  assert generate.read_nonempty_prompts(("a dog", "a cat")) == ["a dog", "a cat"]
  (tmp_path / "p.txt").write_text("a dog\n\n a cat \n")
  assert generate.read_nonempty_prompts(str(tmp_path / "p.txt")) == ["a dog", "a cat"]
  with pytest.raises(ValueError, match="config.prompts"):
    generate.read_nonempty_prompts(" ")


def test_pictures_stand_in_place_of_prompts_or_beside_them(tmp_path):
  for name in ("b.png", "a.JPG", "notes.txt"):
    (tmp_path / name).touch()
  found = [tmp_path / "a.JPG", tmp_path / "b.png"]
  assert generate.read_inputs("", str(tmp_path)) == {"pictures": found}
  assert generate.read_inputs("", str(found[0])) == {"pictures": found[:1]}
  assert generate.read_inputs("", [str(path) for path in found]) == {"pictures": found}
  assert generate.read_inputs("a dog", "") == {"prompts": ["a dog"]}
  both = dict(prompts=["a dog"], pictures=found[:1])
  assert generate.read_inputs("a dog", str(found[0])) == both
  with pytest.raises(FileNotFoundError, match="c.png"):
    generate.read_inputs("", str(tmp_path / "c.png"))
  (tmp_path / "empty").mkdir()
  with pytest.raises(FileNotFoundError, match="has no pictures"):
    generate.read_inputs("", str(tmp_path / "empty"))


def test_guidance_is_one_number_or_two():
  scale = generate.guidance_kwargs
  assert scale(()) == {}
  assert scale(0.0) == scale((0.0,)) == {"guidance": 0}
  assert scale((1.0, 3.0)) == {"guidance": (1.0, 3.0)}
  with pytest.raises(ValueError, match="one number, or two"):
    scale((1.0, 2.0, 3.0))


def test_a_folder_that_is_not_there_is_named():
  for name in ("never_there", ""):
    with pytest.raises(FileNotFoundError, match=f"'{name}'.*--config.pretrained"):
      generate._digest(name)
