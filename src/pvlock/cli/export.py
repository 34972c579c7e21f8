# SPDX-License-Identifier: GPL-2.0-or-later
"""`pvlock export`: the part of the command line that serves metrics to Prometheus."""

import contextlib
import re
import threading

import click

from pvlock.cli.shared import ended_by_signals, say
from pvlock.errors import ConfigError, WatchError
from pvlock.extras import load_extra

_ADDRESS = re.compile(r"(?:\[(?P<six>[0-9a-fA-F:.]+)\]|(?P<host>[^:\[\]]*)):(?P<port>\d{1,5})")
_ADD_SECONDS = 1.0


@click.command()
@click.option(
    "--listen",
    default="127.0.0.1:9752",
    show_default=True,
    metavar="ADDRESS:PORT",
    help="Where to serve /metrics; port 0 takes any that is free.",
)
@click.option("--vcpus", is_flag=True, help="By VCPU: many more series.")
@click.option("--cgroup", metavar="PATH", help="Only VMs in this cgroup, or below it.")
@click.option("--no-bpf", is_flag=True, help="Only what /proc tells; needs no rights.")
def export(listen: str, vcpus: bool, cgroup: str | None, no_bpf: bool) -> None:  # fmt: skip
    """Serve what `pvlock top` shows to Prometheus, as counters for each VM."""
    load_extra("prometheus_client", "prometheus", "pvlock export")
    from prometheus_client import CollectorRegistry, start_http_server

    from pvlock.top.metrics import Totals
    from pvlock.top.session import Choice, Session

    match = _ADDRESS.fullmatch(listen)
    if match is None or int(match["port"]) > 65_535:
        raise ConfigError(f"--listen {listen}: not an address and a port, such as 127.0.0.1:9752")
    host = match["six"] or match["host"] or "127.0.0.1"
    with ended_by_signals(), Session(Choice((), cgroup, None), not no_bpf) as session:
        session.start()
        if session.degraded:
            say(f"export: from /proc only: no gaps, displacers or quotas ({session.degraded})")
        totals = Totals(session, vcpus)
        registry = CollectorRegistry(auto_describe=False)
        registry.register(totals)
        try:
            server, thread = start_http_server(int(match["port"]), host, registry)
        except OSError as error:
            raise WatchError(f"--listen {listen}: {error.strerror or error}") from error
        where = f"[{host}]" if ":" in host else host
        print(f"serving http://{where}:{server.server_port}/metrics", flush=True)
        try:
            with contextlib.suppress(KeyboardInterrupt):
                while not threading.Event().wait(_ADD_SECONDS):
                    totals.add()
        finally:
            server.shutdown()
            thread.join()
