"""libyaml reads conf/ as Python does, with OmegaConf's rules."""

import json

import pytest
import yaml
from omegaconf import OmegaConf

from experiments.config.paths import conf_dir
from experiments.config.quick_yaml import quick_yaml

TEXT = (
    "a: 1e3\nb: 1_000\nc: 2020-01-01\nd: yes\ne: .5\nf: [1, 2.0, null, ~]\ng:\n  h: ${a}\ni: 0x1f\n"
)


def _read(path):
    return json.dumps(OmegaConf.to_container(OmegaConf.load(path)))


@pytest.fixture
def files(tmp_path):
    odd = tmp_path / "odd.yaml"
    odd.write_text(TEXT)
    return [odd, *sorted(conf_dir().glob("*/*.yaml"))[::7], conf_dir() / "config.yaml"]


def test_the_same_values_are_read(files):
    usual, expected = yaml.SafeLoader, [_read(path) for path in files]
    with quick_yaml():
        assert hasattr(yaml.SafeLoader, "raw_parse") == yaml.__with_libyaml__
        assert [_read(path) for path in files] == expected
    assert yaml.SafeLoader is usual


@pytest.mark.parametrize("text", ["a: 1\na: 2\n", "a: [1\n", "a: 1\n\tb: 2\n"])
def test_what_is_no_yaml_is_refused_with_its_line(tmp_path, text):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with quick_yaml(), pytest.raises(yaml.YAMLError, match=r"bad\.yaml.*line \d"):
        OmegaConf.load(path)


def test_without_libyaml_python_reads(monkeypatch):
    monkeypatch.setattr(yaml, "__with_libyaml__", False)
    usual = yaml.SafeLoader
    with quick_yaml():
        assert yaml.SafeLoader is usual
