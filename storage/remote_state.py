"""The state of an unfinished stage in the store of a remote home: a lost machine costs the work since the last save.

The folder holds what `flows.engine.work.Work` keeps on its disk: a description `step-N.json`, written last, and the
files that it names. A description without its files, or with damaged ones, is passed over by who resumes.
"""

from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path

from storage.remote import RemoteStore, write_object

_DESCRIPTION = re.compile(r"step-(\d+)\.json")


class RemoteState:
    """One stage's folder in the store. Uploads go on in the background, the newest state alone; `flush` waits."""

    def __init__(self, store: RemoteStore) -> None:
        self._fs, self._root = store.fs, store.root
        self._news = threading.Condition()
        self._next: tuple[list[Path], Path] | None = None  # files to upload, and the description that makes them count
        self._busy = False
        self._stored: set[str] = set()

    def pull(self, folder: Path) -> None:
        """Fetch what is in the store if its state is newer than that of `folder`, which it then replaces."""
        self._fs.invalidate_cache()
        try:
            names = [str(path).split(f"{self._root}/", 1)[1] for path in self._fs.find(self._root)]
        except FileNotFoundError:
            names = []
        self._stored = set(names)
        if _newest(names) <= _newest([path.name for path in folder.glob("step-*.json")]):
            return
        shutil.rmtree(folder, ignore_errors=True)
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
        self._fs.get([f"{self._root}/{name}" for name in names], [str(folder / name) for name in names])

    def push(self, files: Sequence[Path], description: Path) -> None:
        """Upload these files, then the description, in the background; a state that waits for its turn gives way."""
        with self._news:
            self._next = list(files), description
            if not self._busy:
                self._busy = True
                threading.Thread(target=self._upload, daemon=True).start()

    def flush(self, seconds: float) -> bool:
        """Wait so long at most for the uploads; whether all is stored."""
        with self._news:
            return self._news.wait_for(lambda: not self._busy, seconds)

    def remove(self) -> None:
        """The stage is sealed: nobody resumes it. Costs nothing where nothing was stored."""
        with self._news:
            self._next = None
        self.flush(60.0)
        for name in sorted(self._stored, reverse=True):  # descriptions first: `step-N.safetensors` follows its .json
            self._drop(name)

    def _upload(self) -> None:
        while True:
            with self._news:
                if self._next is None:
                    self._busy = False
                    self._news.notify_all()
                    return
                (files, description), self._next = self._next, None
            try:
                named = {file.relative_to(description.parent).as_posix(): file for file in [*files, description]}
                for name, file in named.items():
                    # The tensors of a step have other bytes after a resume; segments of rows never change.
                    if name not in self._stored or name.startswith("step-"):
                        write_object(self._fs, f"{self._root}/{name}", file.read_bytes())
                        self._stored.add(name)
                kept = set(named)
                for name in sorted(self._stored - kept):
                    if name.startswith("step-"):
                        self._drop(name)
            except OSError:
                continue  # the disk has the state too; the next one is tried anew

    def _drop(self, name: str) -> None:
        try:
            self._fs.rm_file(f"{self._root}/{name}")
        except OSError:
            return
        finally:
            self._stored.discard(name)


def _newest(names: Sequence[str]) -> int:
    return max((int(found[1]) for name in names if (found := _DESCRIPTION.fullmatch(name))), default=-1)
