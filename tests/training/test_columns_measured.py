"""Processes with columns of tables, measured: memory, interfaces, seconds."""

import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from statistics import median

import pytest

from experiments.budget.communication import Links, calls_for_columns, sent_for_columns
from experiments.models.ffn.peer import PEERConfig
from tests.conftest import REPOSITORY
from tests.training.measured import LINKS, MEMORY, SEQ_LEN, SEQUENCES

pytestmark = pytest.mark.night
BLOCKS = 4 * 4 * 2**22  # bytes
RATES = 0, 200, 50  # Mbit/s; 0: as fast as it goes
ADDRESSES = "10.77.0.1", "10.77.0.2"
MTU = 32000  # few headers; and tbf's bucket has to hold one


def _start(n, *arguments, prefixes=None, **environment):
    """n processes, each behind its prefix; they have to end well. A tuple has one for each."""
    own = [[a[r] if isinstance(a, tuple) else a for a in arguments] for r in range(n)]
    started = [
        subprocess.Popen(
            [*(prefixes[rank] if prefixes else ()), sys.executable, "-m",
             "tests.training.measured", *own[rank]],
            env={**os.environ, "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'src'}",
                 "RANK": str(rank), "WORLD_SIZE": str(n), **environment},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(n)
    ]  # fmt: skip
    try:
        outputs = [process.communicate(timeout=580)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0] * n, "\n".join(outputs)


def _read(folder, n):
    return [json.loads((Path(folder) / f"{rank}.json").read_text()) for rank in range(n)]


def test_a_quarter_of_the_memory_on_four_processes(tmp_path):
    found = {}
    for n in (1, 4):
        folder = tmp_path / str(n)
        folder.mkdir()
        _start(n, "memory", str(folder))
        found[n] = _read(folder, n)
    (alone,), every = found[1], found[4]
    print(f"alone {alone}; each of four {every}")
    assert alone["of_tables"] == 4 * 4 * 2 * MEMORY["n_experts"] * MEMORY["d_model"]
    for one in every:
        assert one["of_tables"] == alone["of_tables"] // 4
        # of the process: with activations, and all that the optimizer makes on its way
        assert one["grown"] <= 0.30 * alone["grown"]
        # blocks of 16 MiB are drawn, and no table is ever whole
        assert one["built"] <= alone["built"] / 4 + BLOCKS


@pytest.fixture(scope="module")
def namespaces():
    """Two network namespaces and an interface in each, joined. Skips where they can't be had."""
    missing = [name for name in ("ip", "tc") if shutil.which(name) is None]
    if missing or os.geteuid() != 0:
        pytest.skip(f"needs root and {', '.join(missing) or 'nothing else'}: iproute2 has both")
    names = [f"columns{os.getpid()}{end}" for end in "ab"]
    devices = [f"col{os.getpid() % 10**6}{end}" for end in "ab"]

    def ip(*command):
        subprocess.run(["ip", *command], check=True, capture_output=True, text=True)

    try:
        try:
            for name in names:
                ip("netns", "add", name)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespaces here: {error.stderr.strip()}")
        ip("link", "add", devices[0], "type", "veth", "peer", "name", devices[1])
        for name, device, address in zip(names, devices, ADDRESSES, strict=True):
            ip("link", "set", device, "netns", name)
            ip("-n", name, "addr", "add", f"{address}/24", "dev", device)
            ip("-n", name, "link", "set", device, "mtu", str(MTU), "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield names, devices
    finally:
        for name in names:
            with suppress(subprocess.CalledProcessError):
                ip("netns", "del", name)


def _busy(seconds):
    """Cores that are at work, on average of so many seconds."""

    def busy():
        user, nice, system = map(int, Path("/proc/stat").read_text().split(maxsplit=4)[1:4])
        return (user + nice + system) / os.sysconf("SC_CLK_TCK")

    before = busy()
    time.sleep(seconds)
    return (busy() - before) / seconds


class Measured:
    """Steps of two processes over an interface; and what the formulas say of one step."""

    def __init__(self, folder, names, devices):
        self.others = _busy(2.0)
        _start(
            2, "links", str(folder), ADDRESSES[0], tuple(devices), *map(str, RATES),
            prefixes=[("ip", "netns", "exec", name, "env", f"GLOO_SOCKET_IFNAME={device}")
                      for name, device in zip(names, devices, strict=True)],
        )  # fmt: skip
        layer = PEERConfig(
            n_experts=LINKS["n_experts"], n_heads=LINKS["n_heads"], top_k=LINKS["top_k"],
            d_key=16, query_norm="layer",
        )  # fmt: skip
        d_model, blocks = LINKS["d_model"], [layer.cost(LINKS["d_model"])]
        self.sent = sent_for_columns(
            blocks, d_model=d_model, n_tokens=SEQUENCES * SEQ_LEN, n_ranks=2, clipped=False
        )
        self.calls = calls_for_columns(blocks, n_passes=1, clipped=False)
        self.read = _read(folder, 2)
        self.by_ddp = 4 * self.read[0]["n_others"]  # of two: a half, there and back

    def of(self, rate):
        """By process."""
        return [one["rates"][str(rate)] for one in self.read]

    def seconds(self, rate):
        """Of the median step, which ends where both have ended it."""
        return median(map(max, zip(*(one["seconds"] for one in self.of(rate)), strict=True)))


@pytest.fixture(scope="module")
def measured(tmp_path_factory, namespaces):
    return Measured(tmp_path_factory.mktemp("links"), *namespaces)


def test_bytes_of_the_interface(measured):
    for rate in RATES:
        for one in measured.of(rate):
            n_steps = len(one["seconds"])
            assert one["sent"] == {name: n_steps * n for name, n in measured.sent.items()}
            expected = sum(one["sent"].values()) + n_steps * measured.by_ddp
            # over a veth without a limit, packets overtake each other, and TCP sends some again
            on_device = one["on_device"] - MTU * one["resent"]
            print(
                f"{rate} Mbit/s: interface / formula = {one['on_device'] / expected:.4f}, "
                f"{on_device / expected:.4f} but for {one['resent']} packets sent again"
            )
            assert expected <= one["on_device"]
            assert on_device <= 1.01 * expected


def test_seconds_of_slow_links(measured):
    """Beside what a step takes where links are no matter, the model's seconds for what is sent."""
    if measured.others > 0.25:
        pytest.skip(f"the machine had other work, {measured.others:.2f} cores: time it alone")
    free = measured.seconds(0)
    for rate in RATES[1:]:
        speed = rate * 1e6 / 8
        links = Links(
            node_exchange=speed, node_ring=speed, network_exchange=speed, network_ring=speed,
            n_node=2,
        )  # fmt: skip
        sending = links.seconds_of_columns(measured.sent, measured.calls, 2)
        sending += links.seconds_of_ddp(measured.by_ddp, 2)
        took = measured.seconds(rate)
        print(f"{rate} Mbit/s: {took:.3f} s; {free:.3f} and modelled {sending:.3f}")
        assert free + sending == pytest.approx(took, rel=0.10)
