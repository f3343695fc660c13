"""Four packages of Debian: a made-up one, and their text from the real ones."""

import gzip
import hashlib
import io
import json
import re
import struct
import tarfile
import zlib

import pytest

from experiments.config.composed import composed
from experiments.config.reading import build
from experiments.data import debs
from experiments.data.packages import Packages, texts
from experiments.data.packages import extract_debian as debian
from experiments.data.packages.sources import TRAINING
from tests.conftest import REPOSITORY

# documents, and the start of the sha256 of their JSON lines: as in test_packages.py
DOMAINS = {
    "tdavid": (1571, "d49b6c70a3651c57"),
    "mhcc": (4060, "d6e4276c508117d5"),
    "anarchism": (1487, "7143576b8545be3b"),
    "wordnet": (4380, "039e983986f0c3ee"),
}
AT_NIGHT = set(DOMAINS) - {"mhcc"}  # some eight seconds each
DEB = "a==1:2-3"


def _deb(path, files, links=()):
    """A package as dpkg-deb writes it: an ar archive of three members."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:xz") as packed:
        for name, content in files.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(content)
            packed.addfile(member, io.BytesIO(content))
        for name in links:
            member = tarfile.TarInfo(f"./{name}")
            member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
            packed.addfile(member)
    parts = {"debian-binary": b"2.0\n", "control.tar.xz": b"odd", "data.tar.xz": raw.getvalue()}
    content = b"!<arch>\n"
    for name, part in parts.items():
        content += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(part):<10}`\n".encode()
        content += part + b"\n" * (len(part) % 2)
    path.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def apt(programs):
    """apt(script): apt-get is this script."""
    return lambda script: programs(**{"apt-get": script})


def test_a_package_is_downloaded_once_and_read_without_its_links(tmp_path, apt):
    sha256 = _deb(tmp_path / "a.deb", {"usr/x": b"1", "usr/y": b"22"}, links=["usr/z"])
    asked = tmp_path / "asked"
    apt(f'echo "$@" >> {asked}; cp {tmp_path}/a.deb a_2-3_all.deb')
    for _ in range(2):
        with debs.open_deb(debs.fetch_deb(DEB, sha256, tmp_path / "cache")) as files:
            assert {n: files.read(n) for n in files.namelist()} == {"usr/x": b"1", "usr/y": b"22"}
    assert asked.read_text() == "download -qq a=1:2-3\n"


def test_a_package_that_can_not_be_had_is_one_line(tmp_path, apt, monkeypatch):
    apt("echo E: Unable to locate package a >&2; exit 100")
    why = r"can't download a==1:2-3: E: Unable to locate package a; try apt-get update, leave "
    with pytest.raises(RuntimeError, match=why):
        debs.fetch_deb(DEB, "0" * 64, tmp_path / "cache")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match=r"this machine has no apt-get; .*put a \.deb with sha"):
        debs.fetch_deb(DEB, "0" * 64, tmp_path / "cache")


def test_a_package_of_another_hash_is_not_read(tmp_path, apt):
    _deb(tmp_path / "a.deb", {"usr/x": b"1"})
    apt(f"cp {tmp_path}/a.deb .")
    with pytest.raises(ValueError, match=r"a\.deb has sha256 [0-9a-f]{64}, not 00000000"):
        debs.fetch_deb(DEB, "0" * 64, tmp_path / "cache")


@pytest.mark.parametrize("content", [b"", b"PK", b"!<arch>\n"])
def test_a_file_that_is_no_package(content, tmp_path):
    (tmp_path / "a.deb").write_bytes(content)
    with pytest.raises(ValueError, match=r"is no Debian package with a data\.tar\.xz"):
        debs.open_deb(tmp_path / "a.deb")


@pytest.mark.parametrize("entry", ["<III", "<IIH"])
def test_a_commentary_has_each_text_once(entry, tmp_path):
    blocks = [b"<div>One.</div><div>Two &amp; three.</div>", b"Four."]
    packed = [zlib.compress(block) for block in blocks]
    where = struct.pack("<III", 0, len(packed[0]), len(blocks[0]))
    where += struct.pack("<III", len(packed[0]), len(packed[1]), len(blocks[1]))
    # two verses share a text, one has none
    verses = [(0, 0, 15), (0, 15, 27), (0, 15, 27), (0, 0, 0), (1, 0, 5)]
    folder = "usr/share/sword/modules/comments/zcom/m/"
    files = {f"{folder}{t}.b{kind}": b"" for t in ("ot", "nt") for kind in ("zs", "zz", "zv")}
    files[f"{folder}nt.bzs"] = where
    files[f"{folder}nt.bzz"] = b"".join(packed)
    files[f"{folder}nt.bzv"] = b"".join(struct.pack(entry, *verse) for verse in verses)
    _deb(tmp_path / "a.deb", files)
    with debs.open_deb(tmp_path / "a.deb") as package:
        found = list(debian.commentary(package, module="m", blocks="b", entry=entry))
    assert found == [
        ("nt/00000/0000", "One."),
        ("nt/00001/0000", "Two & three."),
        ("nt/00002/0000", "Four."),
    ]


def test_a_sense_is_at_its_first_synonym(tmp_path):
    text = '\ncar\n    n 1: a vehicle; "a\n         car" [syn: {car}, {auto}]\n    2: a cabin\n'
    text += 'auto\n    n 1: a vehicle; "a car" [syn: {car}, {auto}]\nzoo\n    n 1: a park\n'
    _deb(tmp_path / "a.deb", {"usr/share/dictd/wn.dict.dz": gzip.compress(text.encode())})
    with debs.open_deb(tmp_path / "a.deb") as package:
        ((key, found),) = debian.wordnet(package)
    assert key == "00000"
    assert found == 'car\na vehicle; "a car" [syn: car, auto]\na cabin\n\nzoo\na park'


def test_the_faq_is_its_sections_without_links(tmp_path):
    folder = "usr/share/doc/anarchism/html/"
    page = "<!DOCTYPE html><title>A | B</title><body><h1>A</h1><p>One <i>two</i>.</p></body>"
    _deb(tmp_path / "a.deb", {f"{folder}{n}.html": page.encode() for n in ("secA", "links")})
    with debs.open_deb(tmp_path / "a.deb") as package:
        assert list(debian.anarchism(package)) == [("secA/0000", "A\n\nOne two.")]


def _corpus():
    return build(composed(["data=packages_debian"])["data"]["corpus"], "data.corpus")


def test_the_config_adds_to_the_mix_and_pins_what_it_adds():
    corpus, mix = _corpus(), build(composed(["data=packages"])["data"]["corpus"], "data.corpus")
    assert isinstance(corpus, Packages)
    assert set(corpus.weights) == set(TRAINING)
    assert corpus.domains == sorted([*mix.domains, *DOMAINS])
    assert {d: corpus.weights[d] for d in mix.domains} == {d: mix.weights[d] for d in mix.domains}
    assert corpus.wheels.items() >= mix.wheels.items()
    assert {d for d, source in TRAINING.items() if source.debian} == set(DOMAINS)


@pytest.mark.parametrize(
    "domain", [pytest.param(d, marks=[pytest.mark.night] * (d in AT_NIGHT)) for d in DOMAINS]
)
def test_each_domain_is_the_text_that_it_was(domain, cache):
    try:
        rows = list(_corpus()._read(domain, TRAINING[domain], cache))
    except RuntimeError as error:
        pytest.skip(str(error))
    (file,) = (cache / "texts").glob(f"{domain}-{'[0-9a-f]' * 12}/{texts.FILE}")
    lines = gzip.decompress(file.read_bytes())
    n_bytes = sum(len(json.loads(line)["text"].encode()) for line in lines.splitlines())
    assert (len(rows), hashlib.sha256(lines).hexdigest()[:16]) == DOMAINS[domain]
    row = rf"(?m)^\| {domain} \|.* \| {n_bytes / 1e6:.2f} \| {len(rows)} \|"
    assert re.search(row, (REPOSITORY / "docs" / "data.md").read_text())
