"""The end of a process with its own exit code, whatever an environment has left running."""

from __future__ import annotations

import os
import sys
import threading
from typing import NoReturn

from worldmodel.system.process_start import write_line

GRACE_S = 5.0


def end_process(code: int) -> NoReturn:
    """End the process with this exit code.

    Python waits for threads and child processes that nobody has ended. After GRACE_S they are
    left behind. A rank ends at once, since the threads of torch.distributed may crash while the
    interpreter shuts down.
    """
    if os.environ.get("RANK"):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    timer = threading.Timer(GRACE_S, _leave_behind, [code])
    timer.daemon = True
    timer.start()
    sys.exit(code)


def _leave_behind(code: int) -> None:
    write_line("warning: threads or processes that the environment has started still run")
    os._exit(code)
