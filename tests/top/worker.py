# SPDX-License-Identifier: GPL-2.0-or-later
"""A process that does what it is told, on one CPU, before all that is not real-time.

python worker.py NAME CPU: reads `spin SECONDS` or `yield TIMES`, line by line, and says when it is
done. So what else the host does hardly matters to it.
"""

import contextlib
import ctypes
import os
import sys
import time


def main(name: str, cpu: int) -> None:
    ctypes.CDLL(None).prctl(15, name.encode(), 0, 0, 0)  # PR_SET_NAME
    os.sched_setaffinity(0, {cpu})
    if os.environ.get("PVLOCK_TEST_POLICY") != "fair":
        with contextlib.suppress(PermissionError):
            os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    print("ready", flush=True)
    for line in sys.stdin:
        what, amount = line.split()
        if what == "spin":
            until = time.monotonic() + float(amount)
            while time.monotonic() < until:
                pass
        else:
            for _ in range(int(amount)):
                os.sched_yield()
        print("done", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
