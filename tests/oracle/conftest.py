"""Tests of closed forms are in double precision."""

import jax
import pytest


@pytest.fixture
def double():
  with jax.enable_x64(True):
    yield
