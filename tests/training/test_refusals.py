"""Runs that can not be are refused in one line, before anything is read or made."""

import pytest

PEER = "model=peer n_experts=64 model.d_key=8 model.n_heads=2 model.top_k=4"
ROWS, FUSED = (f"{PEER} optim.table_gradient={way}" for way in ("rows", "fused"))
STOPPED, FUSED_TRUNK = "trainer.stop_hopeless=0.1", "trainer.trunk=fused"
REFUSED = [
    ("data.streaming=true", "data.streaming=true needs a corpus in files, and Nurs"),
    ("trainer.micro_batch_size=3", "micro_batch_size=3 must divide the 4 sequences"),
    # tables
    (FUSED, r"fused with optim.grad_clip=1.0.*optim.grad_clip=null"),
    (
        f"{FUSED} optim.grad_clip=null trainer.micro_batch_size=2",
        "fused with trainer.micro_batch_size=2: tables",
    ),
    (f"{PEER} optim.table_state=bfloat16", "table_state=bfloat16 with optim.table_grad"),
    (f"{PEER} model.table_dtype=bfloat16", "table_dtype=bfloat16 .*dense: torch's AdamW would"),
    (f"{ROWS} kernel=reference", "kernel=reference has dense"),
    (f"{PEER} optim.table_gradient=sparse", "'sparse' is not one of dense, rows, fused"),
    (f"{PEER} kernel=cuda", "kernel='cuda' is not one of auto, reference, torch, cpp, triton"),
    (f"{PEER} kernel=triton", "kernel=triton: no GPU here; use auto or torch"),
    (f"{PEER} model.table_dtype=int8", "table_dtype='int8' is not one of float32, bfloat16"),
    (f"{ROWS} trainer.devices=2", "table_gradient=rows with 2 ranks: DDP averages"),
    (
        f"{FUSED} optim.grad_clip=null trainer.devices=2",
        "table_gradient=fused with 2 ranks: DDP averages",
    ),
    # what makes the trunk
    *(
        (f"trainer.compile={value}", "trainer.compile=.* is not one of auto, true, false")
        for value in ("yes", "1", "null")
    ),
    *(
        (f"{FUSED_TRUNK} {choices}", f"trainer.trunk=fused: .*{why}.*; use auto or eager")
        for choices, why in {
            "ladder.d_per_layer=24 ladder.d_head=24": "d_head=24 is no multiple of 16 up to 128",
            "ladder.d_per_layer=8 ladder.d_head=8 size=1": "d_model=8 is no multiple of 16",
            "trainer.compile=true": "trainer.compile=true makes the trunk",
            "model=pkm n_experts=256 kernel=torch": "kernel=torch reads the tables",
        }.items()
    ),
    # runs that stop where they are hopeless
    (f"{STOPPED} trainer.devices=2", "2 processes a run: they would have to agree"),
    (f"{STOPPED} optim.schedule=trunk optim.warmup_tokens=1e3", "a trunk has no end to compare"),
    ("trainer.stop_hopeless=-1", "stop_hopeless"),
]


@pytest.mark.parametrize(("overrides", "words"), REFUSED)
def test_what_no_run_can_do_is_refused(make, monkeypatch, overrides, words):
    monkeypatch.setattr("experiments.kernels.triton_kernel.why_not", lambda device: "no GPU here")
    with pytest.raises(ValueError, match=words) as caught:
        make(*overrides.split())
    assert "\n" not in str(caught.value)
