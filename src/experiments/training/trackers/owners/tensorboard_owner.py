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

    def init(self, folder: str, config: dict[str, Any]) -> None:
        """config: shown as text."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import SummaryMetadata
        from tensorboard.compat.proto.tensor_pb2 import TensorProto
        from tensorboard.compat.proto.types_pb2 import DT_STRING
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self.run = EventFileWriter(folder)
        # a TensorBoard that has read an earlier file drops what that has from this step on: all
        begun = SessionLog(status=SessionLog.START)
        self.run.add_event(Event(wall_time=time.time(), step=0, session_log=begun))
        text = "\n".join(f"    {line}" for line in json.dumps(config, indent=1).splitlines())
        shown = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
        tensor = TensorProto(dtype=DT_STRING, string_val=[text.encode()])
        self._write(0, tag="config", metadata=shown, tensor=tensor)

    def begin(self, rows: list[dict[str, float]]) -> None:
        """Rows of processes before."""
        for row in rows:
            self._add(**row)
        self.run.flush()

    def log(self, **row: float) -> None:
        """A row of numbers."""
        self._add(**row)
        self.run.flush()

    def _add(self, n_tokens: float, **row: float) -> None:
        for tag, value in row.items():
            self._write(int(n_tokens), tag=tag, simple_value=value)

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
