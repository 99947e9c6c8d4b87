"""Packed runs on the Hugging Face hub, as hf://user/repo[@revision]."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from worldmodel.errors import DataError, RunError, UsageError, escape_control, exit_code_of
from worldmodel.packing import file_list
from worldmodel.packing.archive import check_space, find_cache
from worldmodel.system.optional_packages import require_package

# A path loses one of two slashes: hf://user/repo arrives as hf:/user/repo.
ADDRESS = re.compile(r"hf:/{1,2}([\w.-]{1,96}/[\w.-]{1,96})(?:@([\w.-][\w./-]{0,199}))?")
COMMIT = re.compile(r"[0-9a-f]{40}")
NOT_FOUND = (401, 403, 404)


@dataclass(frozen=True)
class HubAddress:
    repo: str
    revision: str | None

    def __str__(self) -> str:
        return f"hf://{self.repo}{f'@{self.revision}' if self.revision else ''}"


def is_address(text: str) -> bool:
    return text.startswith("hf:/")


def parse_address(text: str) -> HubAddress:
    found = ADDRESS.fullmatch(text)
    if found is None:
        raise UsageError(
            f"{escape_control(text)!r} is not an address of the hub: hf://user/repo[@revision]"
        )
    return HubAddress(found[1], found[2])


def download(address: HubAddress) -> Path:
    """Download the files that the repository's pack.json lists; the folder they are in.

    A commit that was downloaded before is found without the network, unless a file is damaged.
    """
    cache = find_cache() / "hub" / address.repo.replace("/", "--")
    if address.revision and COMMIT.fullmatch(address.revision):
        folder = cache / address.revision
        if file_list.is_complete(folder):
            return folder
    require_package("huggingface_hub", "hf://")
    import huggingface_hub

    with _explain_failure(address):
        info = huggingface_hub.HfApi().model_info(
            address.repo, revision=address.revision, files_metadata=True
        )
        sizes = {entry.rfilename: entry.size or 0 for entry in info.siblings or []}
        commit = str(info.sha)
        if not COMMIT.fullmatch(commit):
            raise DataError(f"{address}: {ascii(commit)[:60]} is not a commit")
        folder = cache / commit
        if file_list.is_complete(folder):
            return folder
        if sizes.get(file_list.NAME, file_list.MAX_LIST + 1) > file_list.MAX_LIST:
            raise DataError(f"{address} is not a packed run: it has no usable {file_list.NAME}")

        def fetch(name: str) -> None:
            huggingface_hub.hf_hub_download(
                address.repo,
                name,
                revision=commit,
                local_dir=str(folder),
                force_download=True,  # what is there is missing or damaged
            )

        fetch(file_list.NAME)
        listed = file_list.read_file_list(folder).files
        check_space(folder, sum(entry.size for entry in listed.values()))
        for name, entry in listed.items():
            if sizes.get(name) != entry.size:
                raise DataError(f"{address}: {name} is not as it was packed ({file_list.NAME})")
        for name in file_list.list_damaged(folder):
            fetch(name)
    return folder


def upload(folder: Path, address: HubAddress) -> str:
    """Upload a packed run, into a new repository where there is none; its page."""
    require_package("huggingface_hub", "hf://")
    import huggingface_hub

    if address.revision:
        raise UsageError(f"{address}: a run is pushed to the main revision; leave @... out")
    names = [file_list.NAME, *file_list.read_file_list(folder).files]
    with _explain_failure(address):
        api = huggingface_hub.HfApi()
        page = api.create_repo(address.repo, exist_ok=True)
        api.upload_folder(
            repo_id=address.repo,
            folder_path=str(folder),
            allow_patterns=names,
            commit_message="Add a packed run",
        )
    return str(page)


@contextlib.contextmanager
def _explain_failure(address: HubAddress) -> Iterator[None]:
    """Turn what the hub refuses, or a network that fails, into one line."""
    from huggingface_hub import errors

    try:
        yield
    except errors.HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        reason, code = f"the hub answers with {status}; try again later", 74
        if status in NOT_FOUND:
            login = "check name and revision, and `hf auth login` if it is private"
            reason, code = f"not there, or not open to you ({status}); {login}", 4
        raise RunError(f"{address}: {reason}", code) from None
    except Exception as error:  # of whichever library it makes requests with
        if exit_code_of(error) is not None:
            raise
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise RunError(f"{address} cannot be reached ({reason}); try again later", 74) from None
