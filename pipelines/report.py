"""`ovseg report`: a finished run as one page, report.html: what it read, kept and dropped, looks like and ran with.

Every run writes it at its end. It is one file, needs no server and no network, and can be read on a phone.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from ovseg_model.fetch_options import FetchOptions
from pipelines.open_run import open_finished_run
from pipelines.options import SentenceParser, add_options, option, read_options
from pipelines.terminal import escaped
from pipelines.write_tables import REPORT_FILE, RunFolder, open_run_folder, real_place, refuse_inside
from schemas import UserError


@dataclass(frozen=True)
class ReportOptions:
    """Where the page is written."""

    output: str | None = option(
        None,
        "file for the page, outside the run: a path or fsspec URL; folders above it that are missing are made "
        "(default: report.html in the run)",
    )


@dataclass(frozen=True)
class EndOptions:
    """What a run made of finished runs ends with."""

    report: bool = option(True, "write report.html at the end; `ovseg report RUN` writes it at any time")


def main(argv: Sequence[str]) -> int:
    """Writes the report of a finished run and prints where it is; `argv` begins with the verb.

    Raises:
        UserError: there is no finished run, or a part of it is missing or damaged.
    """
    parser = SentenceParser("ovseg report", description=__doc__, allow_abbrev=False)
    parser.add_argument("run", metavar="RUN", nargs="?", default="", help="finished run: a path or fsspec URL")
    for group in (ReportOptions, FetchOptions):
        add_options(parser, group)
    namespace = parser.parse_intermixed_args(argv[1:])
    output = read_options(namespace, ReportOptions).output
    run = open_finished(namespace.run, writable=not output)
    folder, name = page_place(output, run) if output else (run, REPORT_FILE)
    folder.write(name, make_report(run, read_options(namespace, FetchOptions)))
    print(escaped(f"report: {folder.path(name)}"))
    return 0


def page_place(output: str, run: RunFolder) -> tuple[RunFolder, str]:
    """Folder and name of the file that --output names; folders that are missing are made when it is written.

    Raises:
        UserError: it names no file, one inside the run that is not its report.html, or no folder can be made there.
    """
    folder, name = os.path.split(output)
    if not name:
        raise UserError(f"--output {output}: names a folder; give a file, such as {output}{REPORT_FILE}")
    place = open_run_folder(folder or ".")
    if real_place(place) != real_place(run) or name != REPORT_FILE:
        refuse_inside(run, RunFolder(f"{place.url.rstrip('/')}/{name}"), "--output")
    return place, name


def open_finished(url: str, writable: bool) -> RunFolder:
    """A finished run by its path or URL, into which the page goes if it must be `writable`.

    Raises:
        UserError: there is none, or one of another release.
    """
    if not url:
        raise UserError("RUN is missing; give the directory of a finished run")
    return open_finished_run(url, "RUN", writable).run


def make_report(run: RunFolder, fetch: FetchOptions) -> bytes:
    """The page of a finished run; `fetch` says how the images of its regions are read again.

    Raises:
        UserError: a part is missing or damaged.
    """
    from pipelines.report_facts import read_facts
    from pipelines.report_page import report_page

    return report_page(read_facts(run, fetch)).encode()


def report_at_end(run: RunFolder, fetch: FetchOptions) -> None:
    """Writes report.html at the end of a run, which a report that cannot be made does not fail: a sentence says why."""
    try:
        run.write(REPORT_FILE, make_report(run, fetch))
    except Exception as error:  # the run is finished, whatever the report met in it
        problem = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        words = f"{REPORT_FILE} was not made ({problem}); the run is whole, and ovseg report {run.url} makes it"
        print(escaped(words), file=sys.stderr)
