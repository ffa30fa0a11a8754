"""What the parity tests measured, gathered into the table of experiments/parity.

A test says what it found with `note(record_property, ...)`; `pytest --parity=FOLDER`
writes FOLDER/parity.json and the table in FOLDER/README.md.
"""

import collections
import json
import pathlib

from tests.support import golden_files

BEGIN, END = "<!-- table -->", "<!-- end of table -->"


def note(
  record_property, row, *, error=None, bound=None, control=None, unit="max\\|ref\\|"
):
  """Records a measured difference, or the error of a negative control.

  Args:
    row: of the table.
    error: in `unit`, and `bound`, what it must not exceed.
    control: error of weights or settings that were changed, in units of the bound.
  """
  found = dict(row=row, error=error, bound=bound, control=control, unit=unit)
  record_property("parity", {k: v for k, v in found.items() if v is not None})


def note_error(record_property, row, error):
  """Records an error in units of the tolerance, as `golden_files.error` gives it."""
  bound = golden_files.TOLERANCE
  unit = "max(1, max\\|ref\\|)"
  note(record_property, row, error=bound * error, bound=bound, unit=unit)


def gather(reports):
  """{row: {"cases", "error", "bound", "unit", "control"}}: the worst of each."""
  rows = collections.defaultdict(lambda: dict(cases=0))
  for report in reports:
    for name, found in report.user_properties:
      if name != "parity":
        continue
      row = rows[found["row"]]
      if "error" in found:
        row["cases"] += 1
        row["error"] = max(row.get("error", 0.0), found["error"])
        row |= dict(bound=found["bound"], unit=found["unit"])
      if "control" in found:
        row["control"] = min(row.get("control", float("inf")), found["control"])
  return dict(sorted(rows.items()))


def write(folder, rows):
  """Writes parity.json and the table of README.md."""
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  (folder / "parity.json").write_text(json.dumps(rows, indent=1) + "\n")
  lines = [
    "| ours against | cases | largest difference | bound | weakest control |",
    "| --- | --- | --- | --- | --- |",
  ]
  for name, row in rows.items():
    if "error" not in row:
      continue
    control = f"{row['control']:,.0f} x bound" if "control" in row else ""
    error = f"{row['error']:.1e} {row['unit']}"
    lines.append(
      f"| {name} | {row['cases']} | {error} | {row['bound']:.0e} | {control} |"
    )
  page = folder / "README.md"
  text = page.read_text() if page.is_file() else f"{BEGIN}\n{END}\n"
  before, _, rest = text.partition(BEGIN)
  _, _, after = rest.partition(END)
  page.write_text(f"{before}{BEGIN}\n" + "\n".join(lines) + f"\n{END}{after}")
