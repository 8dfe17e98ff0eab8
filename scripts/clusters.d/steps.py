"""Steps that run at the same time, and tell how long each took."""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

MANY = 100  # threads that mostly wait


class Steps:
    """Runs steps at the same time and prints each one's end with the time it took."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=MANY)
        self._begin = time.monotonic()

    def start(self, title: str, action: Callable[[], str]) -> Future[None]:
        return self._pool.submit(self.run, title, action)

    def run(self, title: str, action: Callable[[], str]) -> None:
        begin = time.monotonic()
        said = action()
        print(f"  {title:<16} {time.monotonic() - begin:6.2f} s  {said}", flush=True)

    def finish(self, *steps: Future[None]) -> None:
        for step in steps:
            step.result()

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._begin

    def __enter__(self) -> "Steps":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True)
