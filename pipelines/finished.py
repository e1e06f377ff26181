"""A finished run whose command is given again: known by what was asked and by stamps of files, before anything heavy.

Neither Beam nor torch is imported for it. What cannot be told by a stamp is left to the plan, which reads and hashes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import fsspec

from pipelines.caption_formats.input_files import CHANGE_KEYS, folder_stamp
from pipelines.extract_nouns import ExtractNouns
from pipelines.freeze_captions import input_stamps, known_stamps
from pipelines.match_regions import MatchRegions
from pipelines.plan import READS, STAGES, MineOptions, Plan, read_manifest
from pipelines.propose_masks import ProposeMasks
from pipelines.read_captions import input_files
from pipelines.versions import versions
from pipelines.write_tables import SUCCESS_FILE, RunFolder

SUBMITTED_FILE = ".submitted.json"
"""By verb: what was asked for when it last finished, the files that decided, and a hash of what it made."""

PACKAGES = ("schemas", "ovseg_model", "pipelines")


class Command(NamedTuple):
    """A command as it was given: verb, our options, and the arguments for Beam."""

    verb: str
    options: MineOptions
    beam_arguments: Sequence[str]

    def asks(self, input_stamps: Any) -> dict[str, Any]:
        """What it asks for, as JSON values, of an input with these stamps (None: the frozen one).

        Who runs it and where does not matter, but for Beam's own options: they were understood when they were last
        given.
        """
        options = self.options
        groups = {name: asdict(getattr(options, name)) for name in ("freeze", "nouns", "masks", "match", "fetch")}
        run = {"device": options.run.device, "torch_threads": options.run.torch_threads}
        beam = [options.run.runner, *self.beam_arguments] if self.beam_arguments else []
        asked = {"input": input_stamps, **groups, "run": run, "beam": beam}
        return json.loads(json.dumps({**asked, "versions": versions(), "code": code_stamp()}))

    def stamps_now(self) -> Any:
        """The stamps of its input; None where it names none, and empty where files do not tell their times.

        Raises:
            UserError: nothing is where --captions points to.
        """
        read = self.options.read
        return input_stamps(input_files(read), read, self.options.freeze) if read else None


def is_finished(run: RunFolder, tables: Sequence[str], command: Command) -> bool:
    """Whether the run holds what is asked for, whole: the last command of this verb asked for it too."""
    submitted = read_submitted(run).get(command.verb)
    if not submitted or not run.has(SUCCESS_FILE):
        return False
    stamps, manifest = command.stamps_now(), read_manifest(run)
    return bool(
        stamps != {}
        and manifest
        and submitted["asked"] == command.asks(stamps)
        and submitted["made"] == made_sha256(manifest, tables)
        and all(stamp_of(place) == stamp for place, stamp in submitted["files"].items())
        and has_every_part(run, manifest)
    )


def remember(plan: Plan, tables: Sequence[str], command: Command) -> None:
    """Notes what a command that has just finished asked for, if its files can be told by their stamps."""
    stamps = known_stamps(plan.run) if command.options.read else None
    places, manifest = decisive_places(plan), read_manifest(plan.run)
    if stamps == {} or places is None or manifest is None:
        return
    files = {place: stamp_of(place) for place in places}
    if all(files.values()):
        facts = {"asked": command.asks(stamps), "files": files, "made": made_sha256(manifest, tables)}
        plan.run.write_json(SUBMITTED_FILE, {**read_submitted(plan.run), command.verb: facts})


def read_submitted(run: RunFolder) -> dict[str, Any]:
    """What was noted, by verb; empty where nothing was, or nothing that can be read."""
    try:
        noted = run.read_json(SUBMITTED_FILE)
    except (FileNotFoundError, ValueError):
        return {}
    return noted if isinstance(noted, dict) else {}


def made_sha256(manifest: dict[str, Any], tables: Sequence[str]) -> str:
    """A hash of all that decides some tables, those that they are made from included."""
    stages = {STAGES[each] for table in tables for each in (table, *READS[table])}
    fingerprints = {stage: manifest["stages"].get(stage, {}).get("fingerprint") for stage in stages}
    identity = {"stages": fingerprints, "units": manifest["units"]}
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def has_every_part(run: RunFolder, manifest: dict[str, Any]) -> bool:
    """Whether every part that the manifest lists is there, with its size."""
    found = {f"{table}/{name}": size for table in manifest["tables"] for name, size in run.sizes_bytes(table).items()}
    parts = (part for facts in manifest["tables"].values() for part in facts["parts"])
    return all(found.get(part["path"]) == part["bytes"] for part in parts)


def decisive_places(plan: Plan) -> list[str] | None:
    """The files and folders, beside the input, whose content decides rows; None where only a plug-in knows."""
    places: list[str] = []
    for step in plan.steps:
        if isinstance(step, ProposeMasks) and step.generator and ":" in step.generator.name:
            return None
        if isinstance(step, MatchRegions) and step.safety:
            return None
        places += places_of(step)
    return places


def places_of(step: Any) -> Iterator[str]:
    """The files and folders that decide one step's rows."""
    if isinstance(step, ExtractNouns):
        yield from noun_data(step.rule)
    if isinstance(step, (ProposeMasks, MatchRegions)) and step.excluded:
        yield from (place for _, place in step.excluded.lists)
    if isinstance(step, ProposeMasks) and step.masks_from:
        yield f"{step.masks_from.url.rstrip('/')}/run.json"
    if isinstance(step, ProposeMasks) and step.generator:
        values = (value for _, value in (*step.generator.options, *step.generator.places))
        yield from (value for value in values if isinstance(value, str) and ("://" in value or os.path.exists(value)))
    if isinstance(step, MatchRegions):
        yield from wordnet_places() if step.negatives else ()
        weights = step.scorer.weights
        yield from (place for place in (weights.path, weights.architecture.partition("local-dir:")[2]) if place)


def noun_data(rule: str) -> list[str]:
    """The data files of a noun rule."""
    if rule == "lexicon":
        return []
    from pipelines.noun_rules.nltk_packages import package_places

    return package_places()


def wordnet_places() -> list[str]:
    """The files of WordNet that hard negatives depend on."""
    from pipelines.noun_relations import PACKAGE
    from pipelines.noun_rules.nltk_packages import package_places

    return package_places((PACKAGE,))


def stamp_of(place: str) -> list[Any] | None:
    """Size, and time or tag, of a file or of all in a folder; None where there is nothing, or nothing that tells."""
    try:
        file_system, path = fsspec.core.url_to_fs(place)
        info = file_system.info(path)
    except (OSError, ValueError, ImportError):
        return None
    if info["type"] == "directory":
        return list(folder_stamp(place))
    modified = next((str(info[key]) for key in CHANGE_KEYS if info.get(key)), "")
    return [info["size"], modified] if modified else None


def code_stamp() -> str:
    """A hash over names, sizes and times of this project's own files: a changed step answers to nothing made before."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    digest = hashlib.sha256()
    for path in sorted(path for package in PACKAGES for path in source_files(os.path.join(root, package))):
        status = os.stat(path)
        digest.update(f"{os.path.relpath(path, root)}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def source_files(folder: str) -> Iterator[str]:
    """The Python files below a folder."""
    for parent, _, names in os.walk(folder):
        yield from (os.path.join(parent, name) for name in names if name.endswith(".py"))
