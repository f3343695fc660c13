"""GPUs: those that this process sees, and the one that is a worker's or a rank's own.

CUDA reads CUDA_VISIBLE_DEVICES when it starts, which is once a process. So a worker is told its GPU
before that, and nothing here starts CUDA but `why_not_open`. torch is imported where it is asked:
a sweep of runs without GPUs has no use for it.
"""

import os

from experiments.system import started

VISIBLE = "CUDA_VISIBLE_DEVICES"


def cards() -> tuple[str, ...]:
    """GPUs that this process sees, as CUDA_VISIBLE_DEVICES names them: numbers, UUIDs, or parts
    of a card (MIG), of which CUDA shows a process one at a time.
    """
    import torch

    n, given = torch.cuda.device_count(), os.environ.get(VISIBLE)
    if given is None:
        return tuple(str(i) for i in range(n))
    names = tuple(name.strip() for name in given.split(","))
    return names if n and names[0].startswith("MIG-") else names[:n]


def show_only(card: str) -> None:
    """Lets this process see one GPU. To be called before anything asks for its GPUs."""
    os.environ[VISIBLE] = card


def own_index(devices: int) -> int:
    """Number of this rank's GPU among those that it sees, where each node has `devices` ranks.

    A job gives its ranks all GPUs of the node (--gpus-per-node), of which the local rank's is its
    own, or one each (--gpus-per-task). Raises RuntimeError if it has fewer.
    """
    import torch

    seen = torch.cuda.device_count()
    if devices == 1 or (seen == 1 and started.given_gpus() >= devices):
        return 0
    if seen < devices:
        raise RuntimeError(
            f"trainer.devices={devices}, and this process sees {seen} GPUs of its node; ask for "
            f"as many: hydra.launcher.gpus_per_node={devices}, or sbatch --gpus-per-node={devices}"
        )
    return started.local_rank()


def why_not_open(devices: int = 1) -> str | None:
    """Makes this process's GPU the current one and computes there, so that no other's memory is
    touched. Returns the reason if it has none that computes. devices: as of own_index.
    """
    import torch

    if not torch.cuda.is_available():
        why = "this torch is made without CUDA" if torch.version.cuda is None else "torch sees none"
        return f"planned for a GPU, and {why} ({_surroundings()})"
    try:
        torch.cuda.set_device(own_index(devices))
        torch.ones(1, device="cuda").add_(1).item()
    except Exception as error:  # a driver, a mode, a torch for other GPUs: each in its own way
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        return f"its GPU does not compute: {first} ({_surroundings()})"
    return None


def _surroundings() -> str:
    visible = os.environ.get(VISIBLE)
    return f"{VISIBLE} {'is not set' if visible is None else f'is {visible!r}'}"
