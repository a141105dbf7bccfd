"""What the machine is, and whether the binary starts on it."""

import os
import re
import subprocess

import torch


def describe(run):
    data = run.report.data
    lines = subprocess.run(["ldd", run.podium], env=run.environment(), capture_output=True, text=True).stdout
    missing = re.findall(r"(\S+) => not found", lines)
    run.row("libraries", not missing, f"not found: {missing}" if missing else "all found")
    run.row("processors", None, f"{os.cpu_count()}, torch {torch.__version__}")
    data["torch"] = torch.__version__
    if not run.on_gpu:
        run.row("GPU", None, "none asked for")
        return
    fields = "name,driver_version,compute_cap,memory.total,clocks.max.sm,power.limit"
    found = subprocess.run(
        ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"], capture_output=True, text=True
    ).stdout.strip()
    data["gpu"] = found
    run.row("GPU", bool(found), found or "nvidia-smi shows none")
    data["peak_tflops"] = peak = peak_rate(run.torch_device)
    run.row("bf16 product of 8192 x 8192 x 8192 in torch", None, f"{peak:.0f} TFLOP/s", tflops=peak)


def peak_rate(device):
    """TFLOP/s of a large bf16 product of random numbers: zeros run faster than real ones."""
    size, times = 8192, 20
    left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        left @ right
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    for _ in range(times):
        left @ right
    end.record()
    torch.cuda.synchronize()
    return 2 * size**3 * times / (begin.elapsed_time(end) / 1e3) / 1e12


def check(run):
    for model in ("podium-nano", "podium-mini"):
        for dtype in ("f32", "bf16"):
            done = run.command("check", "--model", model, "--device", run.device, "--dtype", dtype)
            text = done.stdout if done.returncode == 0 else done.stderr
            canary = re.search(r"canary +(.*)", done.stdout)
            device = re.search(r"\ndevice  +(\w\S*)", done.stdout)
            shown = f"device {device[1]}, {canary[1] if canary else 'no canary'}" if device else text[-300:].strip()
            run.row(f"podium check, {model} in {dtype}", done.returncode == 0, shown)
