"""Folders of networks on the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi, snapshot_download

from a2mamba.hub.folder import CARD_FILE, CONFIG_FILE, WEIGHTS_FILE
from a2mamba.weights import WeightsUnavailableError

HUB_PREFIX = "hf-hub:"
"""Before the name of a repository, as in timm."""


def download_folder(repository: str) -> Path:
    """Return a repository's configuration and weights as a folder in the hub's cache; nothing else is downloaded.

    Args:
        repository: "user/name", or "user/name@revision".

    Raises:
        WeightsUnavailableError: it cannot be downloaded, or is none of a network.
    """
    name, _, revision = repository.partition("@")
    try:
        folder = Path(snapshot_download(name, revision=revision or None, allow_patterns=[CONFIG_FILE, WEIGHTS_FILE]))
    except (OSError, ValueError) as error:  # of no connection, no repository, no right to it, no such name
        raise WeightsUnavailableError(
            f"{HUB_PREFIX}{repository} could not be downloaded ({type(error).__name__}); connect to the internet, "
            "check the name and log in for private ones, or give a folder"
        ) from error
    missing = [file for file in (CONFIG_FILE, WEIGHTS_FILE) if not (folder / file).is_file()]
    if missing:
        raise WeightsUnavailableError(
            f"{HUB_PREFIX}{repository} has no {' and no '.join(missing)}; it is no saved network"
        )
    return folder


def upload_folder(folder: Path, repository: str, *, private: bool, token: str | None) -> str:
    """Upload a saved folder's three files to a repository of the hub, which is made where there is none.

    Returns:
        The address of the commit.
    """
    api = HfApi(token=token, library_name="a2mamba")
    repository = api.create_repo(repository, private=private, exist_ok=True).repo_id
    commit = api.upload_folder(
        repo_id=repository,
        folder_path=folder,
        allow_patterns=[CONFIG_FILE, WEIGHTS_FILE, CARD_FILE],
        commit_message="Network saved by a2mamba",
    )
    return str(commit.commit_url)
