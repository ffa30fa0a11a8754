"""The front page: its code runs as printed, its links lead somewhere, it is short."""

import pathlib
import re
import sys

import jax
import numpy as np
import pytest

from tests.support import suite
from tests.support.published import pipelines

ROOT = pathlib.Path(__file__).parent.parent
README = ROOT / "README.md"
CODE = re.findall(r"```python\n(.*?)```", README.read_text(), re.S)
OPENS = next(i for i, code in enumerate(CODE) if "vdm_jax.load" in code)
SAMPLES = next(i for i, code in enumerate(CODE) if "run_stages" in code)
LONG = (OPENS, SAMPLES)
PAGES = ["README.md", *(f"{d}/README.md" for d in ("configs", "experiments", "tests"))]
PAGES += ["vdm_jax/pretrained/README.md", "vdm_jax/oracle/README.md"]


def test_it_is_one_page_with_five_examples():
  assert README.read_text().count("\n") <= 150 and len(CODE) == 5


@pytest.mark.parametrize(
  "number",
  [*(i for i in range(len(CODE)) if i not in LONG), *suite.only_complete(*LONG)],
)
def test_its_code_runs_as_printed(number, tmp_path, monkeypatch):
  if number == OPENS:
    pipelines.write("latte", tmp_path / "Latte-1")
  monkeypatch.chdir(tmp_path)
  monkeypatch.syspath_prepend(ROOT)
  scope = {}
  exec(compile(CODE[number], f"README.md, example {number}", "exec"), scope)
  if "video" in scope:
    assert scope["video"].dtype == np.uint8 and scope["video"].shape[:2] == (1, 4)
  if "scores" in scope:
    assert scope["scores"]["distance"] == pytest.approx(0.00056, abs=1e-5)
  if "params" in scope:
    assert sum(x.size for x in jax.tree.leaves(scope["params"])) > 600e6
  if "module" in scope:
    assert scope["module"].depth == 12
  if "job" in scope:
    assert (tmp_path / "runs/python/samples/grid.gif").is_file()
  assert sys.modules["vdm_jax"].__file__.startswith(str(ROOT))


@pytest.mark.parametrize("page", PAGES)
def test_links_of_pages_lead_to_files(page):
  place = ROOT / page
  links = re.findall(r"\]\(([^)#]+)", place.read_text())
  assert links or page.startswith("tests")
  for link in links:
    assert "://" in link or (place.parent / link).exists(), link
