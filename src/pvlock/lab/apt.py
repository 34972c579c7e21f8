# SPDX-License-Identifier: GPL-2.0-or-later
"""The archive from which this machine gets its Debian packages, and apt's settings for that."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

_KEYRING = "debian-archive-keyring"
_ON_THE_WAY = re.compile(r'Acquire::(http|https|Check-[\w-]+|Retries)\b.* ".+";$')


def mirror(root: Path = Path("/")) -> str | None:
    """Return the URI of the Debian archive that apt uses here, or None if there is none.

    It is the first source of this machine's own release that has the component main and Debian's
    own keys. A machine that does not run Debian has none; mmdebstrap then takes its own default.
    """
    try:
        release = dict(
            line.split("=", 1)
            for line in (root / "etc/os-release").read_text("utf-8").splitlines()
            if "=" in line
        )
    except OSError:
        return None
    codename = release.get("VERSION_CODENAME", "").strip("\"'")
    if release.get("ID", "").strip("\"'") != "debian" or not codename:
        return None
    for uri, suites, components, signed_by in _sources(root / "etc/apt"):
        ours = codename in suites and "main" in components
        if ours and (not signed_by or _KEYRING in signed_by):
            return uri
    return None


def options() -> list[str]:
    """Return this machine's settings of apt for downloads: proxies, checks, retries."""
    tool = shutil.which("apt-config")
    if tool is None:
        return []
    dump = subprocess.run([tool, "dump"], capture_output=True, text=True, check=False).stdout
    return [line for line in dump.splitlines() if _ON_THE_WAY.match(line)]


def _sources(folder: Path) -> Iterator[tuple[str, list[str], list[str], str]]:
    """Yield each source's URI, suites, components and keys; see sources.list(5)."""
    files = [folder / "sources.list", *sorted((folder / "sources.list.d").glob("*"))]
    for path in files:
        try:
            text = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        text = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
        if path.suffix == ".list":
            yield from _lines(text)
        elif path.suffix == ".sources":
            yield from _stanzas(text)


def _lines(text: str) -> Iterator[tuple[str, list[str], list[str], str]]:
    for line in text.splitlines():
        match = re.match(r"\s*deb\s+(?:\[([^]]*)\]\s*)?(\S+)\s+(\S+)\s+(.*)", line)
        if match:
            options, uri, suite, components = match.groups(default="")
            signed_by = re.search(r"signed-by=(\S+)", options)
            yield uri, [suite], components.split(), signed_by[1] if signed_by else ""


def _stanzas(text: str) -> Iterator[tuple[str, list[str], list[str], str]]:
    for stanza in re.split(r"\n\s*\n", text):
        pairs = re.findall(r"(?mi)^([\w-]+):((?:.*)(?:\n[ \t].*)*)", stanza)
        fields = {name.lower(): value.split() for name, value in pairs}
        off = fields.get("enabled", ["yes"])[:1] in (["no"], ["false"])
        if off or "deb" not in fields.get("types", []):
            continue
        for uri in fields.get("uris", []):
            keys = " ".join(fields.get("signed-by", []))
            yield uri, fields.get("suites", []), fields.get("components", []), keys
