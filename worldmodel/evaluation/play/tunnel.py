"""How a browser on another machine reaches the page's server, which answers this machine alone."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path

CONTAINER_MARKS = (Path("/.dockerenv"), Path("/run/.containerenv"))


def describe_tunnel(
    port: int, environ: Mapping[str, str], host: str = "", in_container: bool | None = None
) -> str:
    """The ssh command that reaches the port, as good as environment variables tell it.

    A Slurm job is reached through the node from which it was submitted.
    """
    host = host or socket.gethostname()
    user = environ.get("USER") or environ.get("LOGNAME") or "USER"
    forward = f"ssh -L {port}:localhost:{port}"
    # The address and port of this machine as the user's ssh has reached it.
    reached = environ.get("SSH_CONNECTION", "").split()[2:]
    server, ssh_port = reached if len(reached) == 2 else ("", "22")
    if "SLURM_JOB_ID" in environ:
        login = server or environ.get("SLURM_SUBMIT_HOST", "LOGIN_NODE")
        jump = f"{user}@{login}" + (f":{ssh_port}" if ssh_port != "22" else "")
        return f"{forward} -J {jump} {user}@{environ.get('SLURMD_NODENAME', host)}"
    if in_container is None:
        in_container = any(mark.exists() for mark in CONTAINER_MARKS)
    if in_container and not server:
        return f"{forward} {user}@HOST; HOST runs this container, started with --network host"
    given = f" -p {ssh_port}" if ssh_port != "22" else ""
    return f"{forward}{given} {user}@{server or host}"
