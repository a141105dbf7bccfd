"""Faults of the whole process: too little memory, a stopped process, a batch that hangs."""

import concurrent.futures
import os
import pathlib
import signal
import time

from server import BODY, Server, Skipped

CGROUPS = pathlib.Path("/sys/fs/cgroup/memory")


def heavy(documents=64, words=400):
    return {"query": "q", "documents": ["word " * words] * documents}


def memory_limit(podium, folder):
    """A request that exceeds the memory limit: the kernel kills the process, as in a container."""
    if os.geteuid() != 0 or not (CGROUPS / "memory.limit_in_bytes").exists():
        raise Skipped("needs root and the memory controller of cgroups version 1")
    group = CGROUPS / f"podium-faults-{os.getpid()}"
    group.mkdir()
    inside = lambda: (group / "cgroup.procs").write_text(str(os.getpid()))
    try:
        with Server(podium, folder, before=inside).wait_until_listening() as server:
            assert server.send(BODY)[0] == 200
            used = int((group / "memory.usage_in_bytes").read_text())
            # Room for small requests and not for the large one.
            (group / "memory.limit_in_bytes").write_text(str(used + (24 << 20)))
            small = server.send(BODY)[0]
            began = time.monotonic()
            try:
                large = str(server.send(heavy(documents=1000))[0])
            except OSError as error:
                large = type(error).__name__
            if server.process.poll() is None and large == "200":
                raise Skipped("the large request fits into the limit")
            code = server.wait_for_exit()
        assert code == -signal.SIGKILL, f"{code}: {server.log}"
        with Server(podium, folder).wait_until_listening() as server:
            again = server.send(BODY)[0]
        assert (small, again) == (200, 200)
        return (
            f"small request 200; large: {large}, the kernel kills the process (137 in a shell); "
            f"after a restart 200, {time.monotonic() - began:.1f} s after the large request"
        )
    finally:
        for _ in range(100):
            try:
                group.rmdir()
                break
            except OSError:
                time.sleep(0.1)


def stopped_and_continued(podium, folder):
    with Server(podium, folder).wait_until_listening() as server:
        assert server.send(BODY)[0] == 200
        server.signal(signal.SIGSTOP)
        seen = []
        for _ in range(3):
            try:
                seen.append(str(server.send(BODY, timeout=1)[0]))
            except TimeoutError:
                seen.append("timeout")
        server.signal(signal.SIGCONT)
        began = time.monotonic()
        status, _ = server.send(BODY)
        took = time.monotonic() - began
        ready, _ = server.send(path="/ready")
        server.signal(signal.SIGTERM)
        code = server.wait_for_exit()
    assert seen == ["timeout"] * 3 and (status, ready, code) == (200, 200, 0), (seen, status, ready, code)
    return f"3 clients time out; after SIGCONT 200 within {took:.2f} s, /ready 200, SIGTERM exits 0"


def hanging_batch(podium, folder):
    """A batch that takes longer than schedule.hang_seconds, as on a device that hangs."""
    limits = {"PODIUM__SCHEDULE__STALL_SECONDS": "1", "PODIUM__SCHEDULE__HANG_SECONDS": "2"}
    with Server(podium, folder, environment=limits).wait_until_listening() as server:
        small = server.send(BODY)[0]
        large = concurrent.futures.ThreadPoolExecutor().submit(server.send, heavy(words=2000))
        # The process sleeps for longer than the limit, again and again, while the batch runs.
        pauses = 0
        while not large.done() and pauses < 10:
            time.sleep(0.1)
            server.signal(signal.SIGSTOP)
            time.sleep(2.5)
            server.signal(signal.SIGCONT)
            pauses += 1
        status, answer = large.result()
        code, log = server.wait_for_exit(), server.log
    seen = (small, status, answer.get("error", {}).get("code"), code)
    assert seen == (200, 503, "device_lost", 69), (seen, log)
    assert "schedule.hang_seconds" in log, log
    return f"small request 200; large: 503 device_lost after {pauses} pauses of 2.5 s; exit code 69"


CASES = [
    ("memory: more than the limit", memory_limit),
    ("process: SIGSTOP and SIGCONT", stopped_and_continued),
    ("process: a batch that hangs", hanging_batch),
]
