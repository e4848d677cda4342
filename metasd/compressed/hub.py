"""Model folders on the Hugging Face Hub, or on a server with its interface: download, upload."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

from metasd.errors import InputError

from .storage import FILES, ModelParts, is_compressed, save

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def is_repo_id(name: object) -> bool:
    """Whether a text, not a path object, has the form `user/name`."""
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


def download(repo_id: str, revision: str | None, endpoint: str | None) -> Path:
    """The folder, in the cache of `huggingface_hub`, of a model's files, and of no others.

    Args:
        repo_id: `user/name`.
        revision: a branch, tag or commit; None: main.
        endpoint: the server; None: that of HF_ENDPOINT, or huggingface.co.

    Raises:
        InputError: there is no such model or no connection, or the repository is of another kind.
    """
    hub = _library(f"{repo_id}: no such folder; to download models")
    try:
        config = hub.hf_hub_download(repo_id, FILES[0], revision=revision, endpoint=endpoint)
        folder = Path(config).parent
        if is_compressed(folder):
            for name in FILES[1:]:  # of the same commit
                hub.hf_hub_download(repo_id, name, revision=folder.name, endpoint=endpoint)
    except Exception as error:  # of another HTTP library in each major version
        at = "" if revision is None else f" at revision {revision}"
        raise InputError(
            f"{repo_id}: no such folder, and no model{at} that can be downloaded from "
            f"{hub.HfApi(endpoint=endpoint).endpoint} ({_reason(error)})"
        ) from None
    if not is_compressed(folder):
        raise InputError(f"{repo_id}: the repository holds no compressed model of metasd")
    return folder


def upload(parts: ModelParts, card: str, repo_id: str, private: bool, endpoint: str | None) -> str:
    """Makes a repository, unless there is one, and commits a model's files to it.

    Args:
        parts: the model.
        card: the text of README.md.
        repo_id: `user/name`.
        private: of a new repository.
        endpoint: as for `download`.

    Returns:
        The address of the commit.

    Raises:
        InputError: not allowed (the token is `huggingface_hub`'s: HF_TOKEN, or `hf auth login`), or
            no connection.
    """
    api = _library("to upload models").HfApi(endpoint=endpoint)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        save(parts, folder, card, overwrite=False)
        try:
            api.create_repo(repo_id, private=private, exist_ok=True)
            commit = api.upload_folder(
                folder_path=folder,
                repo_id=repo_id,
                commit_message="Upload a compressed model of metasd",
                allow_patterns=list(FILES),
            )
        except Exception as error:
            raise InputError(
                f"{repo_id}: could not be uploaded to {api.endpoint} ({_reason(error)})"
            ) from None
    return str(commit.commit_url)


def _library(purpose: str) -> Any:
    try:
        import huggingface_hub
    except ModuleNotFoundError:
        raise InputError(f'{purpose}: pip install "metasd[hub]"') from None
    return huggingface_hub


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    kind = type(error).__name__
    return f"{kind}: {lines[0]}" if lines else kind
