"""What the parts share: the binary, the time that is left, and processes that end with their part."""

import json
import lzma
import os
import re
import shutil
import subprocess
import threading
import time
import urllib.error
import urllib.request


class OutOfTime(Exception):
    """A part has used its time."""


class Run:
    def __init__(self, arguments, scratch, report, root):
        self.device, self.small, self.report, self.root = arguments.device, arguments.small, report, root
        self.scratch, self.out = scratch, arguments.out
        self.podium = scratch / "podium"
        if arguments.podium.suffix == ".xz":
            with lzma.open(arguments.podium) as packed, open(self.podium, "wb") as binary:
                shutil.copyfileobj(packed, binary)
        else:
            shutil.copyfile(arguments.podium, self.podium)
        self.podium.chmod(0o755)
        self.end_of_run = time.monotonic() + arguments.seconds
        self.end_of_part = self.end_of_run
        self.processes = []
        self.spare = 0.0

    @property
    def torch_device(self):
        return self.device if self.device != "cuda" else "cuda:0"

    @property
    def on_gpu(self):
        return self.device.startswith("cuda")

    def begin(self, part, limit):
        self.part = part
        self.end_of_part = min(time.monotonic() + limit + self.spare, self.end_of_run)

    def end(self):
        """Ends the processes of the part. Time that it has not used goes to the next one."""
        self.spare = max(0.0, self.end_of_part - time.monotonic())
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()
        self.processes.clear()

    def left(self):
        return self.end_of_part - time.monotonic()

    def check_time(self):
        if self.left() <= 0:
            raise OutOfTime("the part's time is over")

    def row(self, name, ok, text, **figures):
        self.report.row(self.part, name, ok, text, **figures)

    def environment(self, **more):
        """The process's environment, with the CUDA libraries that torch brings."""
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", **{key: str(value) for key, value in more.items()}}
        folders = cuda_folders()
        if self.on_gpu and folders:
            known = environment.get("LD_LIBRARY_PATH")
            environment["LD_LIBRARY_PATH"] = ":".join([*folders, *([known] if known else [])])
        return environment

    def command(self, *flags, timeout=None, **environment):
        """Runs podium to its end: the finished process, with its text."""
        self.check_time()
        timeout = min(timeout or self.left(), self.left())
        command = [self.podium, *map(str, flags)]
        return subprocess.run(
            command, env=self.environment(**environment), capture_output=True, text=True, timeout=timeout
        )

    def start(self, command, **options):
        process = subprocess.Popen([str(part) for part in command], text=True, **options)
        self.processes.append(process)
        return process


def cuda_folders():
    """Folders with the CUDA libraries of torch's wheels: a stripped binary finds libcudart, libcublas, libcurand and libnvrtc
    there where the system has none."""
    try:
        import nvidia
    except ImportError:
        return []
    found = []
    for base in nvidia.__path__:
        for folder, _, files in os.walk(base):
            if any(re.match(r"lib(cudart|cublas|cupti|curand|nvrtc)\.so", name) for name in files):
                found.append(folder)
    return sorted(set(found))


class Passes:
    """A `podium passes` process."""

    def __init__(self, run, model, dtype, repeat=1, cache_bytes=0, **environment):
        environment = run.environment(PODIUM__MODEL__PREFIX_CACHE_BYTES=cache_bytes, **environment)
        flags = ["--model", model, "--device", run.device, "--dtype", dtype, "--repeat", repeat]
        self.run = run
        self.errors = open(run.scratch / "passes.log", "w+")
        self.process = run.start(
            [run.podium, "passes", *flags],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
        )
        self.facts = self.read_line()

    def read_line(self):
        # A process that hangs must not hang the run: it is killed when the part's time is over.
        timer = threading.Timer(max(self.run.left(), 0.1), self.process.kill)
        timer.start()
        line = self.process.stdout.readline()
        timer.cancel()
        if line:
            return json.loads(line)
        if self.run.left() <= 0:
            raise OutOfTime("podium passes was killed when the part's time was over")
        self.errors.seek(0)
        raise RuntimeError(f"podium passes ended: {self.errors.read()[-400:].strip()}")

    def batch(self, passes):
        """The rows of each pass, and the milliseconds."""
        try:
            self.process.stdin.write(json.dumps(passes) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass
        line = self.read_line()
        return line["outputs"], line["ms"]

    def close(self):
        self.process.stdin.close()
        self.process.wait(timeout=20)
        self.errors.close()

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            self.close()


class Server:
    """A `podium serve` process on a free port."""

    def __init__(self, run, model, dtype, *flags, **environment):
        command = [run.podium, "serve", "--listen", "127.0.0.1:0", "--model", model, "--device", run.device]
        self.process = run.start(
            [*command, "--dtype", dtype, *flags], env=run.environment(**environment), stderr=subprocess.PIPE
        )
        timer = threading.Timer(max(run.left(), 0.1), self.process.kill)
        timer.start()
        lines = []
        self.address = None
        for line in self.process.stderr:
            lines.append(line)
            if found := re.search(r"listening on (http://[\d.]+:\d+)", re.sub(r"\x1b\[[\d;]*m", "", line)):
                self.address = found[1]
                break
        timer.cancel()
        if not self.address:
            raise RuntimeError("podium serve ended: " + "".join(lines)[-400:].strip())
        threading.Thread(target=self.process.stderr.read, daemon=True).start()

    def rerank(self, body):
        request = urllib.request.Request(
            f"{self.address}/v1/rerank", json.dumps(body).encode(), {"content-type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:
                return json.load(reply)
        except urllib.error.HTTPError as error:
            raise RuntimeError(f"podium replied {error.code}: {error.read()[:300]!r}") from None

    def close(self):
        self.process.terminate()
        self.process.wait(timeout=20)
