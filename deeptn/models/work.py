"""Where the work on the layers of a model is done, and how much of it is done already."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..arrays import to_raw
from ..base import Params, PathLike, optional, positive_int, remove_temporary, showing, write_atomically
from ..errors import FormatError, PlanError
from ..files import is_mapped, load, save
from ..network import Network
from .view import naming


class Call(NamedTuple):
    """A call for one layer, of a function that can be pickled.

    Attributes
    ----------
    layer : str
        Name of the layer, for errors.
    name : object
        Comes back with the result.
    function : callable
    arguments : sequence

    Examples
    --------
    >>> Call("fc", "three", pow, (3, 2)).name
    'three'
    """

    layer: str
    name: Any
    function: Callable[..., Any]
    arguments: Sequence[Any]


@dataclass(frozen=True)
class Workers:
    """Processes or a cluster that work on the layers of a model, and a folder that keeps what is finished.

    Every call has one thread for linear algebra, so that its result does not depend on where it runs.

    Parameters
    ----------
    processes : int, optional
        Number of processes on this machine; by default, as many as it has cores.
    scheduler : str or distributed.Client, optional
        Address (``"tcp://…"``) or client of a dask cluster, used in place of the processes.
    folder : path, optional
        Folder for the result of every call. Later runs with the same weights and settings read what they find there.

    Examples
    --------
    >>> workers = Workers(processes=1)
    >>> sorted(workers.run([Call("fc", n, pow, (n, 2)) for n in (3, 4)]))
    [(3, 9), (4, 16)]
    """

    processes: int | None = None
    scheduler: Any = None
    folder: PathLike | None = None

    def __post_init__(self):
        if self.processes is not None:
            positive_int(self.processes, "processes", PlanError)

    @classmethod
    def of(cls, given: Workers | int | None) -> Workers:
        """Return what a function was given as its workers: a number stands for processes."""
        return given if isinstance(given, Workers) else cls(given)

    def run(self, calls: Iterable[Call]) -> Iterator[tuple[Any, Any]]:
        """Yield the name and the result of every call, in the order in which they end.

        Calls are taken from the iterable as workers become free, so only their arguments are in memory.
        """
        from joblib import Parallel, delayed, parallel_config

        processes = self.processes or os.cpu_count() or 1
        if self.scheduler is None and processes == 1:
            yield from map(_call, calls)
            return
        options: dict[str, Any] = {"backend": "loky", "inner_max_num_threads": 1, "n_jobs": processes}
        with ExitStack() as stack:
            if self.scheduler is not None:
                options = {"backend": "dask", "client": self._client(stack), "n_jobs": -1}
            with parallel_config(**options):
                parallel: Any = Parallel(return_as="generator_unordered", pre_dispatch="2*n_jobs")
                own = _Copies()
                yield from parallel(delayed(_quiet)(call._replace(arguments=own(call.arguments))) for call in calls)

    def _client(self, stack: ExitStack) -> Any:
        distributed = optional("distributed", "dask")
        if not isinstance(self.scheduler, str):
            return self.scheduler
        try:
            # Without this, a client tries to connect again in the background after it has failed.
            address = importlib.import_module("distributed.comm").get_address_host_port(self.scheduler)
            socket.create_connection(address, timeout=10).close()
            return stack.enter_context(distributed.Client(self.scheduler, timeout=10))
        except (OSError, ValueError) as error:
            raise PlanError(f"no dask scheduler at {self.scheduler!r}: {error}") from error

    @property
    def store(self) -> Store:
        """What is in the folder."""
        return Store(None if self.folder is None else Path(self.folder))


class _Copies:
    """Copies of the arrays that are mapped from files: joblib would pass the names of the files, which may be gone."""

    def __init__(self):
        self.last: tuple[Any, Any] = (None, None)

    def __call__(self, arguments: Sequence[Any]) -> list[Any]:
        return [self._of(value) if isinstance(value, np.ndarray) else value for value in arguments]

    def _of(self, array: np.ndarray) -> np.ndarray:
        if self.last[0] is not array:  # several calls in a row have the same array
            self.last = array, np.array(array) if is_mapped(array) else array
        return self.last[1]


def _call(call: Call) -> tuple[Any, Any]:
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1), naming(call.layer):
        return call.name, call.function(*call.arguments)


def _quiet(call: Call) -> tuple[Any, Any]:
    """Make a call in another process, whose loops show nothing."""
    with showing():
        return _call(call)


@dataclass(frozen=True)
class Store:
    """Results in a folder, under a hash of what they depend on. Without a folder, nothing is kept.

    Examples
    --------
    >>> import tempfile
    >>> store = Store(Path(tempfile.mkdtemp()))
    >>> key = key_of("errors", np.ones(3))
    >>> store.keep(key, [0.5]), store.find(key), store.find(key_of("errors", np.zeros(3)))
    (None, [0.5], None)
    """

    folder: Path | None

    def find(self, key: str) -> Any:
        """Return plain data; None if there is none, or the file is damaged."""
        try:
            return None if self.folder is None else json.loads(self._file(key, "json").read_text())
        except (OSError, ValueError):
            return None

    def keep(self, key: str, data: Any) -> None:
        """Write plain data."""
        if self.folder is not None:
            write_atomically(self._file(key, "json"), lambda file: file.write_text(json.dumps(data)))

    def find_params(self, key: str, net: Network) -> Params | None:
        """Return the cores of a network; None if there are none, or the file is damaged."""
        try:
            found = None if self.folder is None else load(self._file(key, "safetensors"))
        except (OSError, FormatError):
            return None
        return found[1] if found is not None and found[0] == net else None

    def keep_params(self, key: str, net: Network, params: Params) -> None:
        """Write the cores of a network, as a file that `deeptn.load` reads."""
        if self.folder is not None:
            save(self._file(key, "safetensors"), net, params)

    def _file(self, key: str, suffix: str) -> Path:
        assert self.folder is not None
        self.folder.mkdir(parents=True, exist_ok=True)  # another run may have finished and deleted it
        return self.folder / f"{key}.{suffix}"

    def clear(self) -> None:
        """Delete the results, and the folder if nothing else is in it."""
        if self.folder is None or not self.folder.is_dir():
            return
        remove_temporary(self.folder)
        for pattern in ("*.json", "*.safetensors"):
            for file in self.folder.glob(pattern):
                if len(file.stem) == KEY_LENGTH:
                    file.unlink(missing_ok=True)
        with suppress(OSError):  # something else is in it
            self.folder.rmdir()


def groups(sizes: Mapping[str, int]) -> Iterator[list[str]]:
    """Yield names in groups of at most `TOGETHER` entries, or of a single one.

    Examples
    --------
    >>> list(groups({"a": 5, "b": TOGETHER, "c": 2, "d": 3}))
    [['a'], ['b'], ['c', 'd']]
    """
    group: list[str] = []
    for name, size in sizes.items():
        if group and sum(sizes[one] for one in group) + size > TOGETHER:
            yield group
            group = []
        group.append(name)
    if group:
        yield group


#: Entries of the weights that are in memory at the same time, if no single weight is larger.
TOGETHER = 2**25

#: Part of every key; another number when the same call gives another result.
VERSION = 1

#: Characters of a key.
KEY_LENGTH = 40


def key_of(*parts: Any) -> str:
    """Return a hash of arrays and of the text of everything else, for this version of deeptn.

    Examples
    --------
    >>> key_of(np.ones(2)) == key_of(np.ones(2)), key_of(np.ones(2)) == key_of(np.ones(2, "float32"))
    (True, False)
    """
    found = hashlib.sha256(f"{importlib.metadata.version('deeptn')} {VERSION}".encode())
    for part in parts:
        if hasattr(part, "dtype"):
            array = to_raw(part)
            found.update(f"{array.dtype} {array.shape}".encode())
            found.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        else:
            found.update(f"|{part!r}".encode())
    return found.hexdigest()[:KEY_LENGTH]
