"""Measure whole processes: seconds, and the peak memory of a process and its children (Linux)."""

import os
import platform
import resource
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

INTERVAL_S = 0.05  # the shortest pause between memory samples; a pause is also at least 20 times as long as a sample


@dataclass(frozen=True)
class Measured:
    """One run of one command. `peak_mb` is a sum of PSS: a page that n processes share counts 1/n for each.

    `processor_s` counts the command and those of its descendants that were waited for.
    """

    seconds: float
    peak_mb: float
    text: str
    processor_s: float = 0.0


def measure(command: Sequence[str], cwd: Path, environment: dict[str, str]) -> Measured:
    """Run a command to its end, and return its seconds, peak memory and output.

    Raises:
        RuntimeError: the command failed; the message has the end of its output.
    """
    ended, peak = threading.Event(), [0.0]
    used, started = _children_s(), time.perf_counter()
    process = subprocess.Popen(
        command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    sampler = threading.Thread(target=_sample_memory, args=(process.pid, ended, peak))
    sampler.start()
    text, _ = process.communicate()
    seconds = time.perf_counter() - started
    ended.set()
    sampler.join()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit code {process.returncode}\n{text[-3000:]}")
    return Measured(round(seconds, 3), round(peak[0], 1), text, round(_children_s() - used, 3))


def _children_s() -> float:
    """Return the processor seconds of all children that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _sample_memory(root: int, ended: threading.Event, peak: list[float]) -> None:
    pause = INTERVAL_S
    while not ended.wait(pause):
        started = time.perf_counter()
        peak[0] = max(peak[0], sum(map(_pss_mb, _tree(root))))
        pause = max(INTERVAL_S, 20 * (time.perf_counter() - started))


def _tree(root: int) -> set[int]:
    """Return the ids of a process and all its descendants."""
    children: dict[int, list[int]] = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                fields = Path(entry.path, "stat").read_text().rpartition(")")[2].split()
            except OSError:  # the process has ended
                continue
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    tree, waiting = set(), [root]
    while waiting:
        tree.add(process := waiting.pop())
        waiting += children.get(process, [])
    return tree


def _pss_mb(process: int) -> float:
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("Pss:")), 0.0)


def machine() -> str:
    """Return a description of the machine, without its name."""
    memory = int(Path("/proc/meminfo").read_text().split()[1]) / 2**20
    return (
        f"{os.cpu_count()} cores ({platform.machine()}), {memory:.0f} GB of memory, "
        f"{platform.system()} {platform.release().split('-')[0]}, Python {platform.python_version()}"
    )
