"""speed.json as tables of README.md and as a chart."""

BEGIN, END = "<!-- table -->", "<!-- end of table -->"
GB = 1e9
COLOURS = {True: "tab:blue", False: "tab:orange", None: "tab:grey"}  # of bars: reached


def in_order(found, names):
  """The rows that were found, in the order of `names`."""
  return {name: found[name] for name in names if name in found}


def text(stands):
  """All tables, in Markdown."""
  found = stands["rows"]
  contests = {k: x for k, x in found.items() if "seconds" in x}
  parts = [_machine(stands["machine"])] if "machine" in stands else []
  if contests:
    parts += [_times(contests), _rates(contests), _memory(contests)]
  if "first_step" in found:
    parts.append(_first_step(found["first_step"]))
  parts += [_clips(x) for x in found.values() if "clips_per_second" in x]
  return "\n\n".join(parts)


def into(page, tables):
  """Puts the tables between the marks of a page, if there is such a page."""
  if page.is_file():
    before, _, rest = page.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n{tables}\n{END}{after}")


def chart(path, stands):
  """Draws the time of each row over torch's, beside what is to be reached."""
  import matplotlib

  matplotlib.use("Agg")
  from matplotlib import pyplot

  bars = [
    (x["title"], x["claims"][0]) for x in stands["rows"].values() if "seconds" in x
  ]
  if not bars:
    return
  figure, axes = pyplot.subplots(figsize=(9, 0.42 * len(bars) + 1.2))
  for i, (_, claim) in enumerate(bars):
    value, target = claim["value"], claim["target"]
    axes.barh(i, value, color=COLOURS[claim["reached"]])
    if target:
      axes.plot([target, target], [i - 0.4, i + 0.4], color="black", linewidth=2)
    axes.text(value + 0.01, i, f"{value:.2f}", va="center", fontsize=8)
  axes.axvline(1.0, color="grey", linewidth=0.8, linestyle="--")
  axes.set_yticks(range(len(bars)), [title for title, _ in bars], fontsize=8)
  axes.invert_yaxis()
  axes.set_xlabel("our time over the faster torch's; the black line is to be reached")
  figure.tight_layout()
  figure.savefig(path, dpi=110)
  pyplot.close(figure)


def _machine(machine):
  versions = ", ".join(f"{k} {v}" for k, v in machine["versions"].items())
  vectors = ", ".join(machine["vectors"])
  return (
    f"{machine['cpu']} ({vectors}), {machine['threads']} threads for each contender, "
    f"{machine['gigabytes']} GB; Python {machine['python']}, {versions}; float32."
  )


def _table(head, lines):
  rule = ["---", *["---:"] * (len(head) - 1)]
  return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *lines))


def _times(contests):
  lines = []
  for row in contests.values():
    claim = row["claims"][0]
    others = [f"{k} {_seconds(v)}" for k, v in row["seconds"].items() if k != "ours"]
    others += [f"{k} failed" for k in row["failed"]]
    lines.append(
      (
        row["title"],
        _seconds(row["seconds"]["ours"]),
        "; ".join(others),
        f"{claim['value']:.2f}",
        f"{claim['target']:.2f}" if claim["target"] else "",
        _yes(claim),
      )
    )
  head = "seconds: median (quartiles)", "ours", "theirs", "ratio", "to reach", "reached"
  return _table(head, lines)


def _rates(contests):
  lines = []
  for row in contests.values():
    rate = lambda name, row=row: (
      f"{row['flops'] / row['seconds'][name]['median'] / GB:.0f}"
    )
    others = [name for name in row["seconds"] if name != "ours"]
    fastest = min(others, key=lambda name, row=row: row["seconds"][name]["median"])
    peak = [x for x in row["claims"] if "peak" in x["claim"]]
    best = max(row.get("matmul", {}).items(), key=lambda x: x[1], default=("", 0))
    lines.append(
      (
        row["title"],
        f"{row['flops'] / GB:.0f}",
        rate("ours"),
        f"{rate(fastest)} ({fastest})",
        f"{best[1]:.0f} ({best[0]})" if peak else "",
        f"{100 * peak[0]['value']:.0f} % {_yes(peak[0])}" if peak else "",
        str(row["rounds"]),
        f"{row['error']:.0e}",
      )
    )
  head = (
    *("", "GFLOP", "ours, GF/s", "their fastest, GF/s", "highest product, GF/s"),
    *("ours of it (80 % to reach)", "rounds", "difference"),
  )
  return _table(head, lines)


def _memory(contests):
  lines = []
  for row in contests.values():
    if not row["memory"]:
      continue
    claim = next(x for x in row["claims"] if "memory" in x["claim"])
    cells = [
      f"{row['memory'][who][what] / GB:.2f}"
      for who in ("ours", *(name for name in row["memory"] if name != "ours"))
      for what in ("peak", "imports")
    ]
    lines.append((row["title"], *cells, f"{claim['value']:.2f}", _yes(claim)))
  head = "peak memory, GB", "ours", "after imports", "theirs", "after imports", "ratio"
  return _table((*head, "at most 1"), lines)


def _first_step(row):
  parts = ("import", "first state", "trace", "compile", "step", "total")
  cell = lambda x, part: f"{x[part]['median']:.1f}" if part in x else ""
  lines = [
    (name, *(cell(x, part) for part in parts)) for name, x in row["parts"].items()
  ]
  head = (f"{row['title']}, seconds", *parts)
  return _table(head, lines) + "\n\n" + _claims(row)


def _clips(row):
  lines = [
    (
      name,
      f"{x['median']:.1f} ({x['quartiles'][0]:.1f}, {x['quartiles'][1]:.1f})",
      f"{row['clips_per_second_and_core'][name]:.1f}",
      f"{row['over'][name]:.2f}",
    )
    for name, x in row["clips_per_second"].items()
  ]
  head = row["title"], "clips per second", "and core", "ours over it, per core"
  return _table(head, lines) + "\n\n" + _claims(row)


def _claims(row):
  lines = [
    (
      x["claim"],
      f"{x['value']:.3g}",
      f"{'at most' if x['most'] else 'at least'} {x['target']:g}",
      _yes(x),
    )
    for x in row["claims"]
  ]
  return _table(("", "measured", "to reach", "reached"), lines)


def _seconds(spread):
  low, high = spread["quartiles"]
  return f"{spread['median']:.3g} ({low:.3g}, {high:.3g})"


def _yes(claim):
  return {True: "yes", False: "no", None: ""}[claim["reached"]]
