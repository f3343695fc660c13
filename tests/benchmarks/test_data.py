import re

from experiments import bench
from experiments.benchmarks import data as benchmark
from tests.conftest import TINY


def test_prints_every_rate_and_the_ratio(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(benchmark, "_SECONDS", 0.01)
    monkeypatch.setattr(benchmark, "_ROUNDS", 2)
    overrides = ["size=1", "budget=1e9", *TINY, f"paths.cache={tmp_path}"]
    bench.main(["data", *overrides])
    lines = capsys.readouterr().out.splitlines()[1:]
    found = [re.fullmatch(r"(.+?)  +([\d,.]+) (\S+) +\(.*\)", line).groups() for line in lines]
    assert [unit for _, _, unit in found] == ["tokens/s", "tokens/s", "x", "MB/s", "tokens/s"]
    assert all(float(value.replace(",", "")) > 0 for _, value, _ in found)
