"""A file of tensors is read, damaged, or the reading is interrupted."""

import signal
import sys

import pytest
import torch

from experiments.init.safetensors_files import load_tensors


def test_ctrl_c_while_torch_reads_a_file_is_no_damage(tmp_path):
    """safetensors takes a part of a storage, and torch.asarray asks that for its first item."""
    safetensors = pytest.importorskip("safetensors.torch")
    path = tmp_path / "a.safetensors"
    safetensors.save_file({"a": torch.ones(8)}, path)

    def load(read):
        items = iter(range(2))

        def second_item(frame, event, argument):
            if (event, frame.f_code.co_name) == ("call", "__getitem__") and next(items) == 1:
                sys.setprofile(None)
                signal.raise_signal(signal.SIGINT)

        # Python's own handler, where what started this process has it ignore Ctrl-C
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.setprofile(second_item)
        try:
            read(path)
        finally:
            sys.setprofile(None)
            signal.signal(signal.SIGINT, before)

    with pytest.raises(ValueError, match="could not determine the shape"):  # torch's own way
        load(safetensors.load_file)
    with pytest.raises(KeyboardInterrupt):
        load(load_tensors)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"cut short \(.*\); get it again"):
        load_tensors(path)
