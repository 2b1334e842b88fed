"""Models of the Hugging Face hub, in the hub's own cache (HF_HOME), where every tool of a machine finds them.

HF_TOKEN opens private models, HF_ENDPOINT names another hub, and with HF_HUB_OFFLINE only the cache is used. The
client library comes with transformers and is loaded with the first request.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from syncline.errors import NotFound, StorageError, StoreRefused, StoreUnreachable

SCHEME = "hf://"


def snapshot(url: str, wanted: Sequence[str]) -> tuple[str, Path, frozenset[str]]:
    """The URL with its commit, a local folder with the `wanted` patterns of files, and the names of all files there.

    Only the repository's uppermost folder counts. Offline, all files are those of the cache. Raises NotFound,
    StoreRefused, and StoreUnreachable.
    """
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.utils import disable_progress_bars

    repository, _, revision = url.removeprefix(SCHEME).partition("@")
    disable_progress_bars()
    with _told(url):
        folder = Path(
            snapshot_download(repository, revision=revision or None, allow_patterns=[*wanted], ignore_patterns=["*/*"])
        )
        files = {path.name for path in folder.iterdir()}
        if not constants.HF_HUB_OFFLINE:
            files |= {name for name in HfApi().list_repo_files(repository, revision=folder.name) if "/" not in name}
    return f"{SCHEME}{repository}@{folder.name}", folder, frozenset(files)


@contextmanager
def _told(url: str) -> Iterator[None]:
    """Errors of the library become ours, with the URL and what to do."""
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise StoreRefused(f"{url} is gated; ask for access, and set HF_TOKEN to a token of that account") from error
    except errors.RevisionNotFoundError as error:
        raise NotFound(f"{url}: the model has no such revision") from error
    except errors.RepositoryNotFoundError as error:
        raise NotFound(f"{url} does not exist, or is private; then set HF_TOKEN to a token that may read it") from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        raise _not_here(url) from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status >= 500 or status == 429:
            raise StoreUnreachable(f"{url}: the hub fails at the moment (HTTP {status})") from error
        raise StoreRefused(f"{url}: the hub refuses (HTTP {status}); is HF_TOKEN right?") from error
    except errors.HFValidationError as error:
        raise StoreRefused(f"{url} names no model of the hub; write hf://org/name or hf://org/name@revision") from error
    except (errors.HTTPError, ConnectionError) as error:
        raise StoreUnreachable(f"{url}: the hub does not answer ({error})") from error
    except OSError as error:
        raise StorageError(
            f"{url} could not be kept in the hub's cache (HF_HOME): {error}; free space there"
        ) from error


def _not_here(url: str) -> StoreRefused | StoreUnreachable:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return StoreRefused(f"{url} is not in the hub's cache, and HF_HUB_OFFLINE is set; unset it, or fetch the model")
    return StoreUnreachable(f"{url}: the hub does not answer, and the model is not in its cache (HF_ENDPOINT, HF_HOME)")
