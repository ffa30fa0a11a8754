"""The architecture, as a test: who may import whom, and how long a file may be."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parent.parent / "vdm_jax"
MAX_LINES = 400
CPU = "vdm_jax.layers.cpu"  # a package that others import as a whole, by its __init__

# A package may import itself and what it names here; nothing else of ours. Layers and
# sharding take from config the nearest right name of a wrong one.
LEAVES = {
  *("conditioning", "config", "distributed"),
  *("sharding", "atomic", "keys", "huge_pages"),
}
PARTS = {
  *LEAVES,
  *("batches", "video_io", "log"),
  *("compiler", "checkpoint", "pipelines", "tasks", "conditioners", "diffusion"),
  *("oracle", "layers", "models", "autoencoders", "encoders", "pretrained"),
  *("training", "data", "metrics", "worlds", "aot"),
}
MAY_IMPORT = {
  **{leaf: set() for leaf in LEAVES},
  "video_io": {"atomic"},
  "log": {"atomic"},
  "sharding": {"config"},
  "batches": {"sharding", "keys"},
  "main": {"config", "distributed", "programs", "huge_pages"},
  "compiler": {"config"},
  "programs": PARTS,
  "studies": PARTS | {"programs"},
  "pipelines": {
    *("pretrained", "conditioners", "diffusion", "encoders", "tasks"),
    *("sharding", "batches", "keys", "video_io"),
  },
  "tasks": {"conditioning", "keys", "diffusion", "autoencoders", "metrics", "video_io"},
  "conditioners": {"conditioning", "encoders"},
  "encoders": {"layers"},
  "models": {"layers", "conditioning"},
  "autoencoders": {"layers"},
  "metrics": {"layers", "batches", "video_io"},
  "worlds": {"data", "metrics", "video_io"},
  "layers": {"config"},
  "pretrained": {
    *("models", "autoencoders", "encoders", "layers"),
    *("conditioning", "conditioners", "diffusion", "sharding", "atomic"),
  },
  "checkpoint": {"log"},
  "training": {"sharding", "checkpoint", "compiler", "layers", "log"},
  "data": {"video_io", "atomic"},
  "diffusion": {"conditioning", "keys"},
  "oracle": {"diffusion", "metrics"},
  # What a program costs on hardware that is not here.
  "aot": {
    *("compiler", "config", "sharding", "batches", "video_io"),
    *("tasks", "training", "models", "layers"),
  },
}
FILES = sorted(f for f in ROOT.rglob("*.py") if f.name != "__init__.py")


def imports(tree):
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      yield from (a.name for a in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module:
      yield from (f"{node.module}.{a.name}" for a in node.names)


def package_of(file):
  return file.relative_to(ROOT).parts[0].removesuffix(".py")


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_file_is_short_and_imports_only_what_it_may(file):
  source = file.read_text()
  assert source.count("\n") <= MAX_LINES, "split it by idea, not by size"
  names = set(imports(ast.parse(source)))
  ours = {n.split(".")[1] for n in names if n.startswith("vdm_jax.")}
  package = package_of(file)
  illegal = ours - MAY_IMPORT[package] - {package}
  assert not illegal, f"{package} may not import {sorted(illegal)}"
  if file.parent != ROOT / "layers" / "cpu":
    assert not [n for n in names if n.startswith(f"{CPU}.")], f"import only {CPU}"
  foreign = {n.split(".")[0] for n in names} & {"torch", "tensorflow", "pickle"}
  assert not foreign, f"no {sorted(foreign)} at run time"


def test_every_room_is_in_the_table():
  rooms = {package_of(f) for f in FILES}
  assert rooms <= set(MAY_IMPORT), rooms - set(MAY_IMPORT)


def test_parts_of_the_cpu_package_are_seen_from_outside():
  for line in (f"from {CPU} import blocking", f"from {CPU}.tiling import apply_tiled"):
    assert any(n.startswith(f"{CPU}.") for n in imports(ast.parse(line)))
  door = ast.parse("from vdm_jax.layers import cpu")
  assert set(imports(door)) == {CPU}


def test_the_table_sees_a_forbidden_import():
  tree = ast.parse("def f():\n  from vdm_jax.models import video_dit")
  assert "vdm_jax.models.video_dit" in set(imports(tree))
  assert "models" not in MAY_IMPORT["diffusion"]
