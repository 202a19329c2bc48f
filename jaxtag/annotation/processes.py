"""Rows of images by several processes of this machine, in the order of the images."""

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from jaxtag.annotation.annotator import Annotator
from jaxtag.errors import UserError
from jaxtag.inference.share import Share
from jaxtag.tasks.base import Row

_Connections = list["Connection[Any, Any]"]


class AnnotatorProcesses:
    """An `Annotator` in each of several processes, which share cores and GPUs.

    Blocks of images are dealt to them in turns. A process waits while its rows are not taken, so
    memory does not grow, and it ends when this one does.

    Args:
        load: makes the annotator, in each process; it can be pickled.
        count: number of processes.

    Attributes:
        settings: of the annotator.
        selects_tags: of the annotator.
        tags: of the annotator.

    Raises:
        UserError: of `load`.
    """

    def __init__(self, load: Callable[[], Annotator], count: int):
        context = multiprocessing.get_context("spawn")
        self._connections: _Connections = []
        self._processes = []
        for index in range(count):
            here, there = context.Pipe()
            process = context.Process(
                target=_work, args=(load, index, count, there), name=f"annotate {index}"
            )
            process.daemon = True
            process.start()
            there.close()
            self._connections.append(here)
            self._processes.append(process)
        descriptions = [self._receive(index) for index in range(count)]
        self.settings: dict[str, Any] = descriptions[0]["settings"]
        self.selects_tags: bool = descriptions[0]["selects_tags"]
        self.tags: list[str] = descriptions[0]["tags"]

    def rows(self, names: Sequence[Any], start: int = 0) -> Iterator[Row]:
        """The rows of the images from `start` on, in order."""
        count = len(self._connections)
        for index in range(count):
            self._send(index, (list(names), start))
        block = self._receive(0)
        for index in range(1, count):
            self._receive(index)
        return self._rows(len(names), start, block)

    def _rows(self, num_images: int, start: int, block: int) -> Iterator[Row]:
        first = start // block * block
        rows: list[Row] = []
        for position in range(first, num_images):
            if not rows:
                rows = self._receive(position // block % len(self._connections))[::-1]
            row = rows.pop()
            if position >= start:
                yield row

    def close(self) -> None:
        """Ends the processes."""
        for connection in self._connections:
            connection.close()
        for process in self._processes:
            process.terminate()
            process.join()

    def _send(self, index: int, message: Any) -> None:
        with contextlib.suppress(BrokenPipeError):  # _receive tells why
            self._connections[index].send(message)

    def _receive(self, index: int) -> Any:
        try:
            message = self._connections[index].recv()
        except (EOFError, ConnectionResetError):
            process = self._processes[index]
            process.join()
            self.close()
            raise UserError(
                f"process {index} of --processes={len(self._processes)} ended with exit status "
                f"{process.exitcode} (-9: often for want of memory): the same command with fewer "
                "processes goes on"
            ) from None
        if isinstance(message, UserError):
            self.close()
            raise message
        return message


def _work(
    load: Callable[[], Annotator], index: int, count: int, connection: "Connection[Any, Any]"
) -> None:
    """Sends the rows of a share of the images, block by block."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started this one ends it
    _take_devices(index, count)
    with contextlib.suppress(BrokenPipeError, EOFError, ConnectionResetError):
        try:
            annotator = load()
            names = ("settings", "selects_tags", "tags")
            connection.send({name: getattr(annotator, name) for name in names})
            while True:
                names, start = connection.recv()
                block = annotator.block_size(len(names))
                rows = annotator.share_rows(
                    names, Share(start // block * block, block, index, count)
                )
                connection.send(block)
                while part := _take(rows, block):
                    connection.send(part)
        except UserError as error:
            connection.send(error)


def _take(rows: Iterator[Row], count: int) -> list[Row]:
    return [row for _, row in zip(range(count), rows, strict=False)]


def _take_devices(index: int, count: int) -> None:
    """Takes this process's share of the cores, and a GPU where there are any."""
    cores = sorted(os.sched_getaffinity(0))
    if count <= len(cores):
        os.sched_setaffinity(0, cores[index::count])
    gpus = len(list(Path("/dev").glob("nvidia[0-9]*")))
    if gpus:
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", str(index % gpus))
        share = 0.9 / -(-count // gpus)
        os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", f"{share:.2f}")
