from __future__ import annotations

import threading
from functools import partial

import pytest
import torch

from memoserve.errors import Unavailable
from memoserve.retrieval.worker import Priority, SingleCoreWorker


def threads_of_a_new_thread() -> int:
    seen: list[int] = []
    thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    return seen[0]


def test_only_the_worker_computes_with_one_thread() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        worker = SingleCoreWorker("test")
        assert worker.submit(Priority.QUERY, torch.get_num_threads).result() == 1
        assert torch.get_num_threads() == 3
        assert threads_of_a_new_thread() == 3
        torch.set_num_threads(2)  # another thread's choice does not reach it either
        assert worker.submit(Priority.QUERY, torch.get_num_threads).result() == 1
        worker.close()
    finally:
        torch.set_num_threads(before)


def test_queries_overtake_waiting_documents() -> None:
    worker = SingleCoreWorker("test")
    gate = threading.Event()
    done: list[str] = []
    worker.submit(Priority.DOCUMENT, gate.wait)
    futures = [
        worker.submit(priority, partial(done.append, name))
        for name, priority in (
            ("d1", Priority.DOCUMENT),
            ("d2", Priority.DOCUMENT),
            ("q1", Priority.QUERY),
            ("q2", Priority.QUERY),
        )
    ]
    gate.set()
    for future in futures:
        future.result(timeout=10)
    assert done == ["q1", "q2", "d1", "d2"]
    worker.close()


def test_a_failing_job_reaches_its_caller_and_the_worker_goes_on() -> None:
    worker = SingleCoreWorker("test")

    def fail() -> None:
        raise KeyError("broken")

    with pytest.raises(KeyError):
        worker.submit(Priority.QUERY, fail).result(timeout=10)
    assert worker.submit(Priority.QUERY, lambda: 7).result(timeout=10) == 7
    worker.close()


def test_a_cancelled_job_is_not_run() -> None:
    worker = SingleCoreWorker("test")
    gate = threading.Event()
    ran: list[int] = []
    worker.submit(Priority.QUERY, gate.wait)
    future = worker.submit(Priority.QUERY, lambda: ran.append(1))
    assert future.cancel()
    gate.set()
    worker.close()
    assert ran == []


def test_close_finishes_what_waits_and_refuses_the_rest() -> None:
    worker = SingleCoreWorker("test")
    future = worker.submit(Priority.DOCUMENT, lambda: 1)
    worker.close()
    worker.close()
    assert future.result(timeout=0) == 1
    with pytest.raises(Unavailable):
        worker.submit(Priority.QUERY, lambda: 1)
