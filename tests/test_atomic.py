"""What is written appears whole, and what was there stays until then."""

import pytest

from vdm_jax import atomic


def test_a_file_is_replaced_only_by_a_whole_one(tmp_path):
  path = tmp_path / "new" / "a.txt"
  with atomic.file(path) as file:
    file.write_text("first")
    assert not path.exists()
  with pytest.raises(KeyError), atomic.file(path) as file:
    file.write_text("torn")
    raise KeyError
  assert path.read_text() == "first" and list(path.parent.iterdir()) == [path]


def test_a_folder_is_replaced_only_by_a_whole_one(tmp_path):
  path = tmp_path / "a"
  for name in ("first", "second"):
    with atomic.folder(path) as folder:
      (folder / name).touch()
    assert [file.name for file in path.iterdir()] == [name]
  with pytest.raises(KeyError), atomic.folder(path) as folder:
    (folder / "torn").touch()
    raise KeyError
  (tmp_path / ".a.partial").mkdir()  # a killed run cannot clean up
  with atomic.folder(path) as folder:
    assert not list(folder.iterdir())
    (folder / "third").touch()
  assert list(tmp_path.iterdir()) == [path]
  assert [file.name for file in path.iterdir()] == ["third"]
