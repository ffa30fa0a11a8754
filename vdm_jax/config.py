"""Configs are trees of plain data that say which call to make later.

  call(VideoDiT, depth=28)  ->  VideoDiT(depth=28)               when built
  bind(ddim, eta=0.0)       ->  functools.partial(ddim, eta=0.0)  when built

Both name the object itself, so a typo is an error in the config file, at once,
and not a crash an hour into a run. Both give a ConfigDict, so every argument can
be set from the command line: --config.network.depth=12. A part that stands in two
places is one part: assign the same ConfigDict twice and both follow a change. Plain
values do so where they are `shared`. A variant of a part is `replace`, a new one.
"""

import difflib
import functools
import hashlib
import importlib
import inspect
import json
import pathlib
import re

import ml_collections

VERBS = ("call", "bind")
WORKDIR = "{workdir}"  # in a string: the folder of the run
DEFAULT = object()  # for `replace`: leave this argument to the target


def call(target, /, **kwargs):
  """A ConfigDict that `build` turns into `target(**kwargs)`.

  It has the target's plain defaults, too. An unknown argument is a TypeError here.
  """
  return _describe("call", target, kwargs)


def bind(target, /, **kwargs):
  """A ConfigDict that `build` turns into `functools.partial(target, **kwargs)`."""
  return _describe("bind", target, kwargs)


def replace(node, /, **changes):
  """A ConfigDict of the same call or bind as `node` with other arguments; `node` stays.

  Inner parts and shared values are those of `node`. A change to DEFAULT leaves an
  argument out, so that the target's own default holds.
  """
  verb = next(name for name in VERBS if name in node)
  kwargs = dict(node.items(preserve_field_references=True)) | changes
  target = _target(kwargs.pop(verb))
  kept = {name: x for name, x in kwargs.items() if x is not DEFAULT}
  return _describe(verb, target, kept)


def deferred_call(node):
  """A `bind` node that, built, is a function () -> what the `call` node `node` builds.

  Its arguments follow those of `node`.
  """
  kwargs = {name: node.get_ref(name) for name in node if name != "call"}
  return bind(_target(node["call"]), **kwargs)


def shared(value):
  """A FieldReference: a plain value in several places, all of which follow one flag.

  `shared("videos") + "/train"` follows it, too.
  """
  return ml_collections.FieldReference(value)


def build(cfg, workdir=None):
  """Builds what `cfg` describes, inner parts first.

  Args:
    cfg: ConfigDict, dict, list, tuple or plain value.
    workdir: replaces "{workdir}" in strings.

  Returns:
    The result of a `call`, a functools.partial of a `bind`; dicts, lists and tuples of
    such; plain values as they are.
  """
  if isinstance(cfg, str) and WORKDIR in cfg:
    if workdir is None:
      raise ValueError(f"{cfg!r} needs a workdir; give build(cfg, workdir).")
    return cfg.replace(WORKDIR, str(workdir))
  if isinstance(cfg, (list, tuple)):
    return type(cfg)(build(c, workdir) for c in cfg)
  if not isinstance(cfg, (dict, ml_collections.ConfigDict)):
    return cfg
  kwargs = {k: build(cfg[k], workdir) for k in cfg if k not in VERBS}
  if "call" in cfg:
    return _check(_target(cfg["call"]), kwargs)(**kwargs)
  if "bind" in cfg:
    return functools.partial(_check(_target(cfg["bind"]), kwargs), **kwargs)
  return kwargs


def to_dict(cfg):
  """A config as dicts with sorted keys, lists and plain values, ready for JSON."""
  if isinstance(cfg, (dict, ml_collections.ConfigDict)):
    return {k: to_dict(cfg[k]) for k in sorted(cfg)}
  if isinstance(cfg, (list, tuple)):
    return [to_dict(c) for c in cfg]
  return cfg


def fingerprint(*parts):
  """A hash, sixteen hex digits, of configs or plain values; equal if all are equal."""
  text = json.dumps([to_dict(p) for p in parts], sort_keys=True, default=str)
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def did_you_mean(name, names):
  """The sentence " Did you mean 'x'?", x the nearest of `names`; "" if none is near."""
  found = difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
  return f" Did you mean {found[0]!r}?" if found else ""


def check_choice(name, value, choices):
  """Raises a ValueError, with the nearest of them, unless `value` is in `choices`."""
  if value not in choices:
    near = did_you_mean(str(value), choices)
    raise ValueError(
      f"{name}={value!r} is unknown.{near} There are {', '.join(choices)}."
    )


def check_variant(file, arg, variants):
  """Raises a ValueError unless `arg`, of --config=FILE:arg, is one of `variants`."""
  if arg not in variants:
    known = ", ".join(variants)
    raise ValueError(
      f"{file}:{arg} is unknown; there are {known}.{did_you_mean(arg, variants)}"
    )


def flag_error_message(argv, error):
  """What is wrong with the command line `argv`, as text of a line or two.

  Args:
    argv: the arguments of the program.
    error: the exception that parsing the flags raised.
  """
  text = str(error.args[0]) if error.args else repr(error)
  if "Traceback" in text:  # of the config file: its last line says what is wrong
    text = text.strip().splitlines()[-1].partition(": ")[2] or text
  if unknown := re.search(r'Did you mean "([^"]+)" instead of "([^"]+)"', text):
    flag = next((a for a in argv if unknown[2] in re.split(r"[.=]", a)), unknown[2])
    return f"{flag}: no field {unknown[2]!r}. Did you mean {unknown[1]!r}?"
  if unknown := re.match(r"""\W*(?:Key ")?(\w+)\W*(?:does not exist|$)""", text):
    flag = next((a for a in argv if unknown[1] in re.split(r"[.=]", a)), unknown[1])
    return f"{flag}: the config has no field {unknown[1]!r}."
  if files := re.search(r"No such file or directory: '([^']+)'", text):
    path = pathlib.Path(files[1])
    near = did_you_mean(str(path), map(str, path.parent.rglob("*.py")))
    return f"there is no config file {path}.{near}"
  return text


def _describe(verb, target, kwargs):
  if "<locals>" in target.__qualname__ or target.__module__ == "__main__":
    raise TypeError(f"{target} cannot be imported by name; move it into a module.")
  _check(target, kwargs)
  name = f"{target.__module__}:{target.__qualname__}"
  return ml_collections.ConfigDict({verb: name, **_defaults(verb, target), **kwargs})


def _defaults(verb, target):
  """The target's own defaults that are plain values: they are flags, too.

  A bound function may yet be given arguments by position: only what must be named.
  """
  named = inspect.Parameter.KEYWORD_ONLY
  kinds = (
    (named,) if verb == "bind" else (named, inspect.Parameter.POSITIONAL_OR_KEYWORD)
  )
  return {
    name: p.default
    for name, p in inspect.signature(target).parameters.items()
    if p.kind in kinds and _is_plain(p.default)
  }


def _is_plain(value):
  if isinstance(value, tuple):
    return all(map(_is_plain, value))
  return isinstance(value, bool | int | float | str)


def _target(name):
  module, _, path = name.partition(":")
  target = importlib.import_module(module)
  for attribute in path.split("."):
    target = getattr(target, attribute)
  return target


def _check(target, kwargs):
  """The target, if it takes these arguments; otherwise a TypeError."""
  params = inspect.signature(target).parameters
  if any(p.kind is p.VAR_KEYWORD for p in params.values()):
    return target
  for name in kwargs:
    if name not in params:
      raise TypeError(
        f"{target.__qualname__} has no argument {name!r}."
        f"{did_you_mean(name, params)} It takes {', '.join(params)}."
      )
  return target
