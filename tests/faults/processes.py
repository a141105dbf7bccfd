"""Faults of the whole process: too little memory, a process that is stopped, settings that change under it."""

import os
import pathlib
import signal
import time

from server import BODY, Server, Skipped

CGROUPS = pathlib.Path("/sys/fs/cgroup/memory")


def heavy(documents=64, words=400):
    return {"query": "q", "documents": ["word " * words] * documents}


def memory_limit(podium, folder):
    """A request for which the machine has no memory: the kernel ends the process, as it would in a container."""
    if os.geteuid() != 0 or not (CGROUPS / "memory.limit_in_bytes").exists():
        raise Skipped("needs root and the memory controller of cgroups version 1")
    group = CGROUPS / f"podium-faults-{os.getpid()}"
    group.mkdir()
    inside = lambda: (group / "cgroup.procs").write_text(str(os.getpid()))
    try:
        with Server(podium, folder, before=inside).listening() as server:
            assert server.ask(BODY)[0] == 200
            used = int((group / "memory.usage_in_bytes").read_text())
            # Room for small requests and not for the large one.
            (group / "memory.limit_in_bytes").write_text(str(used + (24 << 20)))
            small = server.ask(BODY)[0]
            began = time.monotonic()
            try:
                large = str(server.ask(heavy(documents=1000))[0])
            except OSError as error:
                large = type(error).__name__
            if server.process.poll() is None and large == "200":
                raise Skipped("the large request fits into the limit")
            code = server.ends()
        assert code == -signal.SIGKILL, f"{code}: {server.log}"
        with Server(podium, folder).listening() as server:
            again = server.ask(BODY)[0]
        assert (small, again) == (200, 200)
        return (
            f"small request 200; large: {large}, the kernel kills the process (137 in a shell); "
            f"started again it answers 200, {time.monotonic() - began:.1f} s after the large request"
        )
    finally:
        for _ in range(100):
            try:
                group.rmdir()
                break
            except OSError:
                time.sleep(0.1)


def stopped_and_continued(podium, folder):
    with Server(podium, folder).listening() as server:
        assert server.ask(BODY)[0] == 200
        server.signal(signal.SIGSTOP)
        seen = []
        for _ in range(3):
            try:
                seen.append(str(server.ask(BODY, timeout=1)[0]))
            except TimeoutError:
                seen.append("timeout")
        server.signal(signal.SIGCONT)
        began = time.monotonic()
        status, _ = server.ask(BODY)
        took = time.monotonic() - began
        ready, _ = server.ask(path="/ready")
        server.signal(signal.SIGTERM)
        code = server.ends()
    assert seen == ["timeout"] * 3 and (status, ready, code) == (200, 200, 0), (seen, status, ready, code)
    return f"3 clients time out; after SIGCONT 200 within {took:.2f} s, /ready 200, SIGTERM exits 0"


CASES = [
    ("memory: more than the limit", memory_limit),
    ("process: SIGSTOP and SIGCONT", stopped_and_continued),
]
