"""A program on a Linux CPU starts once more with huge pages, only there, and once."""

import os
import sys

import pytest

from vdm_jax import huge_pages


@pytest.fixture
def starts(monkeypatch, tmp_path):
  """The environments in which the program would be started, and a machine of use."""
  found = []
  start = lambda file, arguments, environment: found.append((arguments, environment))
  monkeypatch.setattr(os, "execve", start)
  monkeypatch.setattr(sys, "platform", "linux")
  monkeypatch.setattr(os, "confstr", lambda name: "glibc 2.36")
  monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "vdm_jax.main", "--debug"])
  monkeypatch.setattr(huge_pages, "DEVICES", ())
  (tmp_path / "enabled").write_text("always [madvise] never")
  monkeypatch.setattr(huge_pages, "ENABLED", str(tmp_path / "enabled"))
  monkeypatch.setenv("JAX_PLATFORMS", "cpu")
  monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
  monkeypatch.delitem(sys.modules, "jax", raising=False)
  return found


def test_it_starts_with_the_same_arguments_and_the_tunable(starts, monkeypatch):
  monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.check=0")
  huge_pages.restart_with_huge_pages()
  ((arguments, environment),) = starts
  assert arguments == [sys.executable, "-m", "vdm_jax.main", "--debug"]
  wanted = "glibc.malloc.check=0:glibc.malloc.hugetlb=1"
  assert environment["GLIBC_TUNABLES"] == wanted
  monkeypatch.setenv("GLIBC_TUNABLES", wanted)
  huge_pages.restart_with_huge_pages()
  assert len(starts) == 1, "the second time it is there"


def test_where_it_is_of_no_use_nothing_happens(starts, monkeypatch, tmp_path):
  (tmp_path / "nvidia0").touch()
  device = (str(tmp_path / "nvidia[0-9]*"),)
  (tmp_path / "never").write_text("always madvise [never]")
  for change in (
    lambda m: m.setattr(sys, "platform", "darwin"),
    lambda m: m.setattr(os, "confstr", lambda name: "glibc 2.34"),
    lambda m: m.setattr(huge_pages, "ENABLED", str(tmp_path / "never")),
    lambda m: m.setattr(huge_pages, "ENABLED", str(tmp_path / "gone")),
    lambda m: m.setenv("JAX_PLATFORMS", "cuda,cpu"),
    lambda m: (m.delenv("JAX_PLATFORMS"), m.setattr(huge_pages, "DEVICES", device)),
    lambda m: m.setitem(sys.modules, "jax", os),
  ):
    with monkeypatch.context() as m:
      change(m)
      huge_pages.restart_with_huge_pages()
  assert not starts
  with monkeypatch.context() as m:
    m.delenv("JAX_PLATFORMS")
    huge_pages.restart_with_huge_pages()
  assert len(starts) == 1
