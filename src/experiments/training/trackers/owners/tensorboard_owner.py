"""Process that writes a run's TensorBoard file, without torch or TensorFlow."""

import json
import runpy
import time
from pathlib import Path
from typing import Any


class Owner:
    """Owner of the file: it does what a message's one key names."""

    def __init__(self) -> None:
        self.run: Any = None
        self._goes_on = False

    def init(self, folder: str, config: dict[str, Any]) -> None:
        """config: shown as text."""
        from tensorboard.compat.proto.summary_pb2 import SummaryMetadata
        from tensorboard.compat.proto.tensor_pb2 import TensorProto
        from tensorboard.compat.proto.types_pb2 import DT_STRING
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self.run = EventFileWriter(folder)
        text = "\n".join(f"    {line}" for line in json.dumps(config, indent=1).splitlines())
        shown = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
        tensor = TensorProto(dtype=DT_STRING, string_val=[text.encode()])
        self._write(0, tag="config", metadata=shown, tensor=tensor)

    def log(self, n_tokens: float, **row: float) -> None:
        """A row of numbers. The first ends what an earlier file of the run has from there on: rows
        between a checkpoint and an interruption, which are made again.
        """
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        if not self._goes_on:
            begun = SessionLog(status=SessionLog.START)
            self.run.add_event(Event(wall_time=time.time(), step=int(n_tokens), session_log=begun))
            self._goes_on = True
        for tag, value in row.items():
            self._write(int(n_tokens), tag=tag, simple_value=value)
        self.run.flush()

    def finish(self, exit_code: int, summary: dict[str, Any]) -> None:
        """Writes the record's losses at the run's last token, and closes the file."""
        for tag, value in summary.items():
            if tag.endswith("loss") and isinstance(value, int | float):
                self._write(
                    int(summary.get("n_tokens") or 0), tag=f"record/{tag}", simple_value=value
                )
        self.run.close()
        self.run = None

    def _write(self, step: int, **value: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        summary = Summary(value=[Summary.Value(**value)])
        self.run.add_event(Event(wall_time=time.time(), step=step, summary=summary))


if __name__ == "__main__":
    serve = runpy.run_path(str(Path(__file__).with_name("serving.py")))["serve"]
    serve(Owner())
