import json
import pickle
import random
from contextlib import suppress

import numpy as np
import pytest

from experiments.data.packed import PackedText, as_tokens, token_dtype
from experiments.records.files import DamagedError
from tests.data.conftest import packed

TOKENS = np.arange(1001)


@pytest.fixture
def text(tmp_path):
    return packed(tmp_path / "a", TOKENS[:300], TOKENS[300:301], TOKENS[301:])


def test_reads_across_shards(text):
    assert len(text) == 1001
    for start, stop in (
        (0, 1001),
        (0, 1),
        (299, 301),
        (250, 400),
        (300, 301),
        (1000, 1001),
        (5, 5),
    ):
        assert text[start:stop].tolist() == TOKENS[start:stop].tolist()
    with pytest.raises(IndexError, match="outside 0 to 1001"):
        text[990:1002]


def test_goes_to_other_processes_as_a_path(text):
    data = pickle.dumps(text)
    assert len(data) < 500
    assert pickle.loads(data)[298:303].tolist() == [298, 299, 300, 301, 302]


def test_a_missing_or_shortened_shard_is_named(text):
    path = text.folder / "00002.bin"
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(ValueError, match=r"00002.bin .*it has 1398 bytes, .* 700 uint16 .*; del"):
        PackedText(text.folder)
    path.unlink()
    with pytest.raises(ValueError, match=r"00002.bin .*it is missing, and the index says 700"):
        PackedText(text.folder)


def test_damage_of_the_same_length_is_found_by_verify(text):
    text.verify()
    path = text.folder / "00000.bin"
    data = bytearray(path.read_bytes())
    data[5] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"00000.bin is damaged"):
        PackedText(text.folder).verify()


def test_a_damaged_index_is_named(text):
    (text.folder / "index.json").write_text("{")
    with pytest.raises(ValueError, match=r"index.json is damaged .*; delete"):
        PackedText(text.folder)


def without_checksum(path):
    """What an index of an older version holds."""
    return {k: v for k, v in json.loads(path.read_text()).items() if k != "checksum"}


def test_an_index_of_an_older_version_is_read(text):
    index = text.folder / "index.json"
    values = without_checksum(index)
    del values["tokenizer_sha256"]
    index.write_text(json.dumps(values))
    old = PackedText(text.folder)
    assert (old.digest, old.tokenizer_sha256) == (text.digest, None)
    old.verify()


def test_no_flipped_bit_of_the_index_reaches_a_digest(text):
    """Nor the counts: a record's digest and bytes per token come from it."""
    index, generator = text.folder / "index.json", random.Random(0)
    whole = index.read_bytes()
    for _ in range(200):
        data = bytearray(whole)
        data[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
        index.write_bytes(data)
        with suppress(DamagedError):
            found = PackedText(text.folder)
            assert (found.digest, found.n_bytes) == (text.digest, text.n_bytes)


OTHER_TYPES = (
    {"shards": 3}, {"shards": [3]}, {"shards": [{}]}, {"dtype": "what"}, {"dtype": None},
    {"vocab_size": "2000"},
)  # fmt: skip
WIDER = ({"vocab_size": 70000}, "a vocabulary of 70000 is not kept as uint16")


@pytest.mark.parametrize(
    ("change", "why"), [*((change, "index.json is damaged") for change in OTHER_TYPES), WIDER]
)
def test_an_index_that_does_not_fit_is_damaged(text, change, why):
    index = text.folder / "index.json"
    index.write_text(json.dumps({**without_checksum(index), **change}))
    with pytest.raises(DamagedError, match=why):
        PackedText(text.folder)


@pytest.mark.parametrize(("size", "name"), [(2**16, "uint16"), (2**16 + 1, "uint32")])
def test_the_dtype_holds_every_id(size, name):
    assert token_dtype(size).name == name
    assert as_tokens([0, size - 1], size).tolist() == [0, size - 1]


@pytest.mark.parametrize("bad", [-1, 270, 2**16, 2**40])
def test_ids_outside_the_vocabulary_are_refused_not_wrapped(bad):
    with pytest.raises(ValueError, match=rf"token id {bad} is outside the vocabulary of 270"):
        as_tokens([3, bad, 5], 270)


def test_the_digest_is_of_the_tokens(tmp_path, text):
    same = packed(tmp_path / "b", TOKENS[:300], TOKENS[300:301], TOKENS[301:])
    other = packed(tmp_path / "c", TOKENS[:300], TOKENS[300:301], TOKENS[301:] + 1)
    assert same.digest == text.digest != other.digest
