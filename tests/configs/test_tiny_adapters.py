"""Tiny runs of what adapts and animates image models, to the end."""

import pytest

from tests.configs import tiny

pytestmark = pytest.mark.long


@pytest.mark.parametrize("name", tiny.ADAPTERS)
def test_tiny_runs_to_the_end(name, runs):
  tiny.check(*runs(name))
