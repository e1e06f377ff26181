"""Weights from a bucket to this machine, before workers or a launcher open them: containers/boot runs it.

The image says by OVSEG_WEIGHTS_URL from where (a build argument, or nothing), and by OVSEG_WEIGHTS where to.
"""

from __future__ import annotations

import os
import shutil
import sys
import uuid

from schemas import UserError

SOURCE, TARGET = "OVSEG_WEIGHTS_URL", "OVSEG_WEIGHTS"


def fetch_configured_weights() -> None:
    """Fetches what the image was built for, if anything.

    Raises:
        UserError: as `fetch_folder`.
    """
    if os.environ.get(SOURCE):
        fetch_folder(os.environ[SOURCE], os.environ[TARGET])


def fetch_folder(url: str, folder: str) -> None:
    """Copies all of a folder at an fsspec URL; the local folder is whole or absent, and one that is there is kept.

    Raises:
        UserError: there is no such folder, or it cannot be read.
    """
    if os.path.isdir(folder) and os.listdir(folder):
        return
    import fsspec

    partial = f"{folder}.{uuid.uuid4().hex}"
    try:
        file_system, path = fsspec.core.url_to_fs(url)
        print(f"fetching weights from {url} to {folder}")
        # The slash at the end asks for what is in the folder, not for the folder within another one.
        file_system.get(f"{path.rstrip('/')}/", f"{partial}/", recursive=True)
    except Exception as error:  # each file system has exceptions of its own
        shutil.rmtree(partial, ignore_errors=True)
        raise UserError(f"weights at {url} cannot be fetched: {type(error).__name__}: {error}") from error
    _publish(partial, folder)


def _publish(partial: str, folder: str) -> None:
    """Gives the fetched folder its name, unless another process was faster."""
    try:
        os.rename(partial, folder)
    except OSError:
        shutil.rmtree(partial)
        if not os.listdir(folder):
            raise


def main() -> int:
    """Fetches what the image was built for; returns the exit status."""
    try:
        fetch_configured_weights()
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
