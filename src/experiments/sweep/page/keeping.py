"""Page that a sweep keeps of itself while it runs: results/SWEEP/status.html."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from experiments.sweep.manifest import MANIFEST_NAME
from experiments.sweep.page.page import SweepPage
from experiments.sweep.search_table import read_all
from experiments.system.disk import write_text_atomically
from experiments.system.plain_text import printable

PAGE_NAME = "status.html"
_LEAST = 5.0  # seconds from one page to the next
_SHARE = 0.01  # of a core, at most
_PATIENCE = 30.0  # seconds for a page that is being written at the end


@contextmanager
def kept_page(sweep_dir: Path, name: str, n_points: int) -> Iterator[None]:
    """Writes the page at once, within the block every so often, and at its end; says where it is.
    Nothing for a single point. That it can't be written is a note, and the sweep goes on.
    """
    page = _Kept(sweep_dir, name)
    if n_points < 2 or not page.write():
        yield
        return
    print(f"watch it fill in: {page.path}", flush=True)
    thread = threading.Thread(target=page.go_on, name="page", daemon=True)
    thread.start()
    try:
        yield
    finally:
        page.ended.set()
        thread.join(_PATIENCE)
        page.write()
        print(f"its page: {page.path}", flush=True)


class _Kept:
    """File of the page. every: seconds to the next one, so many that all of them take no more than
    _SHARE of a core.
    """

    def __init__(self, sweep_dir: Path, name: str) -> None:
        self.path, self.every = sweep_dir / PAGE_NAME, _LEAST
        self.ended = threading.Event()
        self._sweep_dir, self._page = sweep_dir, SweepPage(sweep_dir, name)
        self._is_told = False

    def go_on(self) -> None:
        while not self.ended.wait(self.every):
            self.write()

    def write(self) -> bool:
        """Whether it could be written; says once why not. Before a search's first run there is no
        sweep to show.
        """
        if not (self._sweep_dir / MANIFEST_NAME).exists():
            return True
        start = time.thread_time()
        try:
            sweep, cells, notes = read_all(self._sweep_dir)
            others = any(point.state == "running" for point in sweep.points)
            every = self.every if others or not self.ended.is_set() else None
            text = self._page.render(sweep, cells, notes, every=every)
            write_text_atomically(self.path, text, durable=False)
        except Exception as error:  # whatever it is, it is none of the sweep's
            if not self._is_told:
                print(printable(f"note: {self.path} is not written: {error}"), file=sys.stderr)
            self._is_told = True
            return False
        self.every = max(_LEAST, (time.thread_time() - start) / _SHARE)
        return True
