"""Files where fsspec finds them: paths of this machine and gs://, s3:// or hf:// addresses."""

from __future__ import annotations

import contextlib
import gzip
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from arxiv_cls.errors import UNREACHABLE, UserError, how_to_install


@contextlib.contextmanager
def storage_errors(what: str, done: str = "read", exit_code: int | None = None) -> Iterator[None]:
    """Makes one `UserError` of whatever a file system raises: `what` cannot be `done`.

    `exit_code` None: 2 for what is missing or damaged, else 3. A missing library of ours stays what it is.
    """
    try:
        yield
    except (UserError, ModuleNotFoundError):
        raise
    except Exception as error:
        # Every storage client has errors of its own for credentials, networks and names.
        reason = f"{type(error).__name__}: " + " ".join(str(error).split())[:200]
        if isinstance(error, OSError) and error.strerror:
            reason = error.strerror
        # pyarrow's errors about content are ValueErrors.
        missing = FileNotFoundError | NotADirectoryError
        bad = isinstance(error, missing | ImportError | ValueError | EOFError | gzip.BadGzipFile)
        status = exit_code or (2 if bad else UNREACHABLE)
        # fsspec's own ImportError names the library of a kind of address in its cause.
        library = error.__cause__
        hint = how_to_install(library) if isinstance(library, ModuleNotFoundError) else None
        raise UserError(f"{what}: cannot be {done}: {reason}", hint, status) from error


def file_system(address: str, exit_code: int | None = None) -> tuple[Any, str]:
    """The fsspec file system of a path or address, and the path on it without a slash at its end.

    Listings are not kept, since another machine may write there too; a local one makes folders.

    Raises:
        UserError: there is no such kind of address, or no credentials for it; `exit_code` as above.
    """
    with storage_errors(address, exit_code=exit_code):
        if address.startswith("gs://"):
            # The class that fsspec has for gs:// asks for the kind of the bucket before each object, again
            # and again where the account may not see it, and over gRPC, which can wait for minutes.
            from gcsfs.core import GCSFileSystem

            return GCSFileSystem(use_listings_cache=False), address.removeprefix("gs://").rstrip("/")
        import fsspec

        options = {} if "://" in address else {"auto_mkdir": True}
        stripped = address.rstrip("/") or "/"
        return fsspec.core.url_to_fs(stripped, use_listings_cache=False, **options)


def writable_directory(target: str, shown: str) -> Path:
    """A directory of this machine, made if it is not there; `shown` begins the message of an error.

    Raises:
        UserError: it is an address, cannot be made, or may not be written.
    """
    if "://" in target:
        raise UserError(f"{shown}: a directory or gs://bucket/folder")
    directory = Path(target).expanduser()
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{shown}: {error.strerror}") from None
    if not os.access(directory, os.W_OK):
        raise UserError(f"{shown}: no permission to write there")
    return directory
