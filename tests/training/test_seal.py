"""Checkpoints with their hash: a flipped bit is seen or changes nothing, and torch reads them."""

import errno
import pickle
import random
import zipfile

import pytest
import torch

from experiments.system import seals
from experiments.system.seals import find_damage, save_sealed
from experiments.training.checkpoints import LAST, to_resume_from

CHECKPOINT = {
    "state_dict": {"a": torch.arange(12.0), "b": torch.ones(2, 3, dtype=torch.bfloat16)},
    "optimizer_states": [{"step": 3}],
    "global_step": 3,
    "loops": {},
}


def same(path):
    loaded = torch.load(path, weights_only=True)
    tensors = loaded.pop("state_dict")
    assert loaded == {k: v for k, v in CHECKPOINT.items() if k != "state_dict"}
    assert all(torch.equal(tensors[k], v) for k, v in CHECKPOINT["state_dict"].items())


@pytest.fixture
def sealed(tmp_path):
    save_sealed(CHECKPOINT, tmp_path / LAST)
    return tmp_path / LAST


@pytest.fixture
def unsealed(tmp_path):
    torch.save(CHECKPOINT, tmp_path / LAST)
    return tmp_path / LAST


def test_torch_and_zip_read_a_sealed_file(sealed):
    same(sealed)
    assert find_damage(sealed) is None
    with zipfile.ZipFile(sealed) as archive:
        assert archive.testzip() is None
        assert archive.comment.startswith(b"sha256:")


def test_a_checkpoint_without_a_hash_is_believed(unsealed):
    assert find_damage(unsealed) is None
    assert to_resume_from(unsealed.parent) == unsealed


@pytest.mark.parametrize("kind", ["sealed", "unsealed"])
def test_every_flipped_bit_is_seen_or_changes_nothing(request, kind):
    path = request.getfixturevalue(kind)
    whole, generator = path.read_bytes(), random.Random(0)
    directory = whole.index(b"PK\1\2")  # where the archive's table of contents begins
    places = [generator.randrange(len(whole)) for _ in range(100)]
    places += [generator.randrange(directory, len(whole)) for _ in range(150)]
    n_seen = 0
    for place in places:
        data = bytearray(whole)
        data[place] ^= 1 << generator.randrange(8)
        path.write_bytes(data)
        if find_damage(path) is None:
            same(path)
        else:
            n_seen += 1
    assert n_seen > (220 if kind == "sealed" else 100)


DAMAGES = {
    "empty": (lambda path: path.write_bytes(b""), "it is empty"),
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:-100]), "BadZipFile|checksum"),
    "random": (lambda path: path.write_bytes(random.Random(0).randbytes(5000)), "BadZipFile"),
    "pickled": (lambda path: path.write_bytes(pickle.dumps({"state_dict": {}})), "BadZipFile"),
    "no state_dict": (lambda path: torch.save({"global_step": 3}, path), "it has no state_dict"),
    "a tensor": (lambda path: torch.save(torch.ones(2), path), "it has no state_dict"),
    "a zip of something else": (
        lambda path: zipfile.ZipFile(path, "w").writestr("a", "b"),
        "RuntimeError|PytorchStreamReader|BadZipFile",
    ),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), "IsADirectoryError: Is a directory"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_every_kind_of_damage_falls_back_with_a_warning(sealed, name):
    make, why = DAMAGES[name]
    make(sealed)
    assert find_damage(sealed) is not None
    assert "\n" not in find_damage(sealed)
    with pytest.warns(UserWarning, match=rf"last.ckpt is damaged \(.*({why}).*ignored"):
        assert to_resume_from(sealed.parent) is None


def test_a_longer_file_is_whole_only_if_it_loads_the_same(sealed):
    sealed.write_bytes(sealed.read_bytes() + b"\0")
    if find_damage(sealed) is None:
        same(sealed)


@pytest.mark.parametrize("n_bytes", [0, 1, 700, 1500])
def test_a_full_disk_leaves_no_partial_file_and_says_so(tmp_path, monkeypatch, n_bytes):
    """At whichever byte: torch's own code is not left by the error, which would end the process."""

    class Full(seals._Hashed):
        def __init__(self, file):
            super().__init__(Device(file, n_bytes))

    monkeypatch.setattr(seals, "_Hashed", Full)
    with pytest.raises(RuntimeError, match=r"last.partial can't be written: No space .*; free"):
        save_sealed(CHECKPOINT, tmp_path / "last.partial")
    assert not list(tmp_path.iterdir())


class Device:
    """A file on a disk with room for so many bytes."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def write(self, view):
        self.room -= len(view)
        if self.room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self.file.write(view)
