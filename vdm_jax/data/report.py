"""Skipped clips and the reasons: in memory, and as lines of a JSONL file."""

import json
import pathlib

from absl import logging

SHOWN = 5  # reasons named in a summary or an error


class SkipReport:
  """Skipped clips, {path: reason} in the attribute `reasons`, and in a JSONL file.

  Args:
    path: the file, with lines {"path": str, "reason": str}, or None. An existing one
      is continued, so a restarted run names nothing twice.
  """

  def __init__(self, path=None):
    self.path = pathlib.Path(path) if path else None
    self.reasons = {}
    if self.path and self.path.exists():
      text = self.path.read_text()
      if text and not text.endswith("\n"):
        self.path.write_text(text + "\n")  # a killed run: begin on a line of our own
      for line in text.splitlines():
        try:
          entry = json.loads(line)
          self.reasons[entry["path"]] = entry["reason"]
        except (ValueError, KeyError, TypeError):
          continue  # torn

  def __len__(self):
    return len(self.reasons)

  def add(self, path, reason):
    """Adds a clip and the reason, a str; a path that is known changes nothing."""
    path = str(path)
    if path in self.reasons:
      return
    self.reasons[path] = reason
    if len(self) <= SHOWN:
      last = "; further ones are only counted" if len(self) == SHOWN else ""
      logging.warning("skipped %s: %s%s", path, reason, last)
    if self.path:
      self.path.parent.mkdir(parents=True, exist_ok=True)
      with self.path.open("a") as file:
        file.write(json.dumps({"path": path, "reason": reason}) + "\n")

  def summary(self):
    """A line of text: how many clips were skipped, and the first of them."""
    if not self.reasons:
      return "nothing skipped"
    where = f"; all in {self.path}" if self.path else ""
    return f"{len(self)} skipped: {format_first_reasons(self.reasons.items())}{where}"


def format_first_reasons(skipped):
  """Text of the first five of `skipped`, [(path, reason)], and the number of others."""
  skipped = list(skipped)
  text = "; ".join(f"{path}: {reason}" for path, reason in skipped[:SHOWN])
  return text + (f"; and {len(skipped) - SHOWN} more" if len(skipped) > SHOWN else "")
