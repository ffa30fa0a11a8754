"""A config names calls; a wrong name is an error at once, with the right one."""

import functools

import pytest
from ml_collections import ConfigDict

from vdm_jax import config as c


class Box:
  def __init__(self, size=1, inside=None):
    self.size, self.inside = size, inside


def scale(x, *, by=2):
  return x * by


def test_call_and_bind_are_built_inner_parts_first():
  cfg = ConfigDict({"box": c.call(Box, size=3, inside=c.bind(scale, by=5)), "n": 1})
  built = c.build(cfg)
  assert built["n"] == 1 and built["box"].size == 3
  assert isinstance(built["box"].inside, functools.partial)
  assert built["box"].inside(2) == 10


def test_plain_defaults_are_fields_and_so_flags():
  assert c.call(Box).size == 1 and "inside" not in c.call(Box)
  assert c.bind(scale).by == 2 and c.call(Box, size=5).size == 5
  # What a bound function may be given by position stays free.
  assert dict(c.bind(Box)) == {"bind": f"{__name__}:Box"}


def test_lists_and_tuples_of_calls_are_built():
  built = c.build({"all": (c.call(Box, size=1), c.call(Box, size=2)), "list": [1, "a"]})
  assert [b.size for b in built["all"]] == [1, 2] and built["list"] == [1, "a"]


def test_a_part_in_two_places_is_one_part():
  cfg = ConfigDict()
  cfg.box = c.call(Box, size=1)
  cfg.outer = c.call(Box, inside=cfg.box)
  cfg.box.size = 7
  assert c.build(cfg.outer).inside.size == 7


def test_an_unknown_argument_is_refused_where_it_is_written():
  with pytest.raises(TypeError, match="no argument 'sise'. Did you mean 'size'"):
    c.call(Box, sise=3)
  with pytest.raises(TypeError, match="no argument 'bye'"):
    c.bind(scale, bye=3)
  cfg = ConfigDict({"box": c.call(Box)})
  cfg.box.sise = 3  # what nobody checked is checked when it is built
  with pytest.raises(TypeError, match="Did you mean 'size'"):
    c.build(cfg)


def test_what_cannot_be_found_by_name_is_refused():
  with pytest.raises(TypeError, match="module"):
    c.call(lambda: 3)


def test_the_workdir_is_filled_in():
  cfg = ConfigDict({"box": c.call(Box, inside="{workdir}/data")})
  assert c.build(cfg, "runs/a")["box"].inside == "runs/a/data"
  with pytest.raises(ValueError, match="workdir"):
    c.build(cfg)


def test_a_fingerprint_changes_with_any_field_and_with_nothing_else():
  one = lambda: ConfigDict({"box": c.call(Box, size=3), "t": (1, 2)})
  assert c.fingerprint(one()) == c.fingerprint(one())
  other = one()
  other.box.size = 4
  assert c.fingerprint(one()) != c.fingerprint(other)
  assert len(c.fingerprint(one())) == 16


def test_a_variant_has_other_arguments_and_the_same_inner_parts():
  cfg = ConfigDict()
  cfg.name = size = c.shared(3)
  cfg.outer = c.call(Box, size=size, inside=c.bind(scale, by=5))
  other = c.replace(cfg.outer, size=4)
  assert (other.size, cfg.outer.size, other.inside) == (4, 3, cfg.outer.inside)
  cfg.outer.inside.by = 6
  cfg.name = 7
  assert other.inside.by == 6 and cfg.outer.size == 7 and other.size == 4
  assert c.replace(cfg.outer, inside=None).size == 7
  plain = c.replace(other, size=c.DEFAULT, inside=c.DEFAULT)
  assert dict(plain) == {"call": f"{__name__}:Box", "size": 1}
  assert c.replace(c.bind(scale), by=3)["bind"] == f"{__name__}:scale"
  with pytest.raises(TypeError, match="no argument 'sise'. Did you mean 'size'"):
    c.replace(other, sise=3)


def test_what_follows_a_shared_value_follows_its_flag():
  cfg = ConfigDict()
  cfg.data = data = c.shared("videos")
  cfg.clips = c.call(Box, inside=data + "/train")
  cfg.data = "ucf101"
  assert cfg.clips.inside == "ucf101/train" == c.to_dict(cfg)["clips"]["inside"]
  assert c.build(cfg)["clips"].inside == "ucf101/train"


def test_an_unknown_variant_is_refused_with_those_there_are():
  c.check_variant("latte.py", "tiny", ("sky", "tiny"))
  with pytest.raises(ValueError, match=r"latte.py:tinny .* sky, tiny. Did .* 'tiny'"):
    c.check_variant("latte.py", "tinny", ("sky", "tiny"))


def test_a_deferred_call_is_made_later_with_the_same_arguments():
  cfg = ConfigDict()
  cfg.box = c.call(Box, size=2)
  cfg.later = c.deferred_call(cfg.box)
  cfg.box.size = 5
  later = c.build(cfg.later)
  assert isinstance(later, functools.partial) and later().size == 5
