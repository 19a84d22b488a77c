"""The lock of an engine: one request at a time, and weights that change only while no session holds them."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from weakref import WeakKeyDictionary

from fewstep.errors import ArgumentError

LOOK_AGAIN = 1.0  # seconds after which a wait looks for sessions that nobody has closed and that are gone


class WeightsLock:
    """A lock that a thread may take again while it has it, which knows the open sessions.

    A session holds the weights from when it is opened to when it is closed or nobody has it any more. Whoever changes
    them (`changing`) waits until none does; meanwhile no other thread opens a session that admits (`let_change`), so
    that a server whose sessions overlap does not keep it waiting for ever.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition(threading.RLock())
        self._depth = 0  # how often the thread that has the lock has taken it
        self._sessions: WeakKeyDictionary[object, set[threading.Thread]] = WeakKeyDictionary()
        self._waiting = 0

    def __enter__(self) -> "WeightsLock":
        self._condition.acquire()
        self._depth += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._depth -= 1
        self._condition.release()

    def hold(self, session: object) -> None:
        """A session is used by this thread; it holds the weights until it is let go."""
        with self:
            self._sessions.setdefault(session, set()).add(threading.current_thread())

    def let_go(self, session: object) -> None:
        """A session is closed."""
        with self:
            self._sessions.pop(session, None)
            self._condition.notify_all()

    def let_change(self) -> None:
        """Wait while somebody else waits to change the weights; not in a thread that has a session or this lock."""
        with self:
            while self._waiting and not self._is_held_here() and self._depth == 1:
                self._wait()

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Within it no session holds the weights, and none is opened.

        Raises:
            ArgumentError: a session that this thread has opened or used is still open: nobody else would close it.
        """
        with self:
            if self._is_held_here():
                allowed = "a change of the weights while this thread has no open session: close it first"
                raise ArgumentError("session", "one that is open, and used by this thread", allowed)
            self._waiting += 1
            try:
                while self._sessions:
                    self._wait()
                yield
            finally:
                self._waiting -= 1
                self._condition.notify_all()

    def _is_held_here(self) -> bool:
        return any(threading.current_thread() in threads for threads in list(self._sessions.values()))

    def _wait(self) -> None:
        depth, self._depth = self._depth, 0
        try:
            self._condition.wait(LOOK_AGAIN)
        finally:
            self._depth = depth
