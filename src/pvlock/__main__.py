# SPDX-License-Identifier: GPL-2.0-or-later
"""python -m pvlock, and what the program pvlock (bin/pvlock) calls: the command line.

While Python imports, Ctrl-C ends the process at once, as it ends any program that has not begun.
"""

import signal

_ENDS = (signal.default_int_handler, signal.SIG_DFL)


def main() -> None:
    """Run the command line, and let Ctrl-C interrupt it from when it can say so until its end."""
    # Started with Ctrl-C ignored, as in the background of a script, a process goes on ignoring it.
    ours = signal.getsignal(signal.SIGINT) in _ENDS
    if ours:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from pvlock.cli import main as command_line

    try:
        command_line(ours)
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.SIG_DFL)


if __name__ == "__main__":
    main()
