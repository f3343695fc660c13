"""A gguf file with one bit flipped in its header is refused, or is read as what it is."""

import struct
import time

import pytest

from experiments.init.gguf_header import read_gguf_header
from tests.init.test_gguf import vocabulary, write
from tests.security.gguf_flips import flips, summary


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("gguf") / "a.gguf"
    write(path, **vocabulary())
    return path


def test_one_flipped_bit_is_seen_or_harmless(path):
    outcomes = list(flips(path, 400))
    kinds = {outcome.kind for outcome in outcomes}
    assert "misread" not in kinds, [o for o in outcomes if o.kind == "misread"]
    assert max(outcome.seconds for outcome in outcomes) < 1
    assert "400 flips: " in summary(outcomes)
    unseen = [outcome for outcome in outcomes if outcome.kind == "unseen"]
    assert len(unseen) < 20, "a number that no tensor shows, the text of an entry"


def edited(path, tmp_path, at, new):
    content = bytearray(path.read_bytes())
    content[at : at + len(new)] = new
    (tmp_path / "b.gguf").write_bytes(content)
    return tmp_path / "b.gguf"


@pytest.mark.parametrize("n", [2**24 + 1, 2**40, 2**63, 2**64 - 1])
@pytest.mark.parametrize("at", [8, 16, 24], ids=["tensors", "settings", "length of a name"])
def test_counts_are_held_against_the_file(n, at, path, tmp_path):
    start = time.process_time()
    with pytest.raises(ValueError, match="more than"):
        read_gguf_header(edited(path, tmp_path, at, struct.pack("<Q", n)))
    assert time.process_time() - start < 0.5


def test_what_is_cut_short_or_longer_is_refused(path, tmp_path):
    content = path.read_bytes()
    for n in (0, 3, 8, 24, 100, 1000, len(content) // 2, len(content) - 40):
        (tmp_path / "b.gguf").write_bytes(content[:n])
        with pytest.raises(ValueError, match=r"."):
            read_gguf_header(tmp_path / "b.gguf")
    (tmp_path / "b.gguf").write_bytes(content + bytes(64))
    with pytest.raises(ValueError, match="its tensors end at byte"):
        read_gguf_header(tmp_path / "b.gguf")


def test_tensors_that_overlap_are_refused(path, tmp_path):
    second = list(read_gguf_header(path).entries)[1].encode()
    place = path.read_bytes().index(second) + len(second)  # dimensions, type, then the offset
    (n,) = struct.unpack_from("<I", path.read_bytes(), place)
    offset = place + 4 + 8 * n + 4
    for new in (0, 2**62):
        with pytest.raises(ValueError, match="and the tensor before ends at"):
            read_gguf_header(edited(path, tmp_path, offset, struct.pack("<Q", new)))


def test_a_setting_with_one_letter_wrong_is_not_taken_for_missing(path, tmp_path):
    from experiments.init.gguf import gguf_shape

    place = path.read_bytes().index(b"llama.rope.freq_base")
    with pytest.raises(ValueError, match=r"'lhama\.rope\.freq_base' is llama\.rope\.freq_base but"):
        gguf_shape(edited(path, tmp_path, place + 1, b"h"))
