"""Files and folders that are written whole or not at all.

Each is written under a temporary name next to its own and renamed at the end: a reader
sees the old one or the whole new one, never what a killed run left.
"""

import contextlib
import os
import pathlib
import shutil
import uuid


@contextlib.contextmanager
def file(path):
  """A context with a temporary pathlib.Path, moved to `path` if no error is raised."""
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
  try:
    yield temporary
    os.replace(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def folder(path):
  """A context with an empty temporary folder, moved to `path` unless an error ends it.

  An old folder there is replaced. The temporary name is always the same: the next run
  removes what a killed one left.
  """
  path = pathlib.Path(path)
  temporary, old = (path.with_name(f".{path.name}.{end}") for end in ("partial", "old"))
  shutil.rmtree(temporary, ignore_errors=True)
  temporary.mkdir(parents=True)
  try:
    yield temporary
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
      os.rename(path, old)
    os.rename(temporary, path)
  finally:
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)
