"""What many tests need and takes long to make: made once, for all workers, on disk."""

import os
import pathlib
import shutil

import filelock


def make_once(folder, make):
  """`folder`, made by `make(path)` unless another test or worker has made it.

  Workers that come meanwhile wait. Tests read the folder and never write into it: what
  changes a run copies it first.

  Args:
    folder: to be made, a path below `root`.
    make: function of a path, where it writes what shall be in the folder; a folder is
      there whole or not at all.
  """
  folder = pathlib.Path(folder)
  folder.parent.mkdir(parents=True, exist_ok=True)
  with filelock.FileLock(f"{folder}.lock"):
    if not folder.exists():
      partial = folder.with_name(f".{folder.name}.partial")
      shutil.rmtree(partial, ignore_errors=True)
      partial.mkdir()
      make(partial)
      os.replace(partial, folder)
  return folder


def root(tmp_path_factory):
  """The folder that all workers of this session share, a path."""
  base = tmp_path_factory.getbasetemp()
  return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
