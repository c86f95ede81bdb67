"""The upper bound: processes that call the 1 ms function in a loop, with no queue at all.

It is measured right before and right after what is compared with it, because other programs come and go.
"""

from __future__ import annotations

import subprocess
import sys
import time

from bench import work
from bench.parts import ROOT


def rate(*, processes: int, seconds: float) -> float:
    """Return the calls per second of so many processes together."""
    command = [sys.executable, "-m", "bench.bare", str(seconds)]
    running = [
        subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(processes)
    ]
    try:
        for one in running:
            assert one.stdout is not None
            one.stdout.readline()
        for one in running:
            assert one.stdin is not None
            one.stdin.write("go\n")
            one.stdin.flush()
        return sum(float(one.communicate(timeout=seconds + 30)[0]) for one in running)
    finally:
        for one in running:
            one.kill()


def main() -> None:
    seconds = float(sys.argv[1])
    print("ready", flush=True)
    sys.stdin.readline()
    calls, began = 0, time.monotonic()
    while time.monotonic() - began < seconds:
        work.one_ms()
        calls += 1
    print(calls / (time.monotonic() - began), flush=True)


if __name__ == "__main__":
    main()
