"""One run: module, optimizer, checkpoints, evaluation, logging."""
