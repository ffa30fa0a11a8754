"""Many calls that must be refused, each with words of its own."""

import pytest


def refused(error, calls):
  """Each of `calls`, {regex of a message: function}, raises an `error` that says so."""
  for message, call in calls.items():
    with pytest.raises(error, match=message):
      call()
      pytest.fail(f"it was not refused with the words {message!r}.")
