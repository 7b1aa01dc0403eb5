"""Become another program, tied to the life of the parent: run as a script, before `exec`.

A supervisor that is killed cannot stop its children, so each child asks the kernel to be signalled when its parent
dies. The request is made here, in a fresh single-threaded process, because code between fork and exec of a threaded
parent may deadlock, and because the kernel forgets the request when the user changes: first the user, then the
request, then exec.

Imports the standard library only and little of it: every child of the platform passes through here.

    launch.py PARENT_PID DEATH_SIGNAL UID GID PROGRAM [ARGUMENT ...]     (UID and GID -1: stay who you are)
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Drop privileges, ask for the death signal, and exec.

    Args:
        arguments: parent pid, signal number, uid, gid, then the program and its arguments.

    Raises:
        SystemExit: the parent is already gone.
        OSError: the program cannot be executed.
    """
    parent, death_signal, uid, gid = (int(word) for word in arguments[:4])
    program = arguments[4:]
    os.umask(0o077)
    library = ctypes.CDLL(None)  # Before the user changes: the new one may not be able to read it.
    if uid >= 0:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    if sys.platform == "linux":
        library.prctl(_PR_SET_PDEATHSIG, death_signal, 0, 0, 0)
    if os.getppid() != parent:  # It died before the request was made, so the signal will never come.
        raise SystemExit("the supervisor is gone")
    # Python ignores SIGPIPE and exec keeps what is ignored; servers expect the default.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.execve(program[0], program, os.environ)  # noqa: S606


if __name__ == "__main__":
    main(sys.argv[1:])
