"""Downloads of published weights: from Hugging Face's hub, or from plain mirrors."""

import sys
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from gptlit.errors import UserError, in_one_line, without_login
from gptlit.files import default_cache_dir

INSTEAD = "give weights.path=PATH, or train from random weights with weights=none"
"""What a training can do without the published weights."""


def fetch(
    source: Mapping[str, Any],
    model: str,
    instead: str = INSTEAD,
    *,
    to_read: bool = True,
) -> Path:
    """The weights of a published model, on the disk; downloaded if they are not there yet.

    Args:
        source: an option of `conf/weights`. With `path`, that is what is returned; with `urls`,
            the files come from mirrors; otherwise through huggingface_hub.
        model: "gpt2-small" and so on; must be among the source's.
        instead: what a user without network can add to the command, for messages.
        to_read: before a download, make sure that this machine can read the format of the files.

    Returns:
        a file or folder for `load_weights`.

    Raises:
        UserError: the source has no such model, or it cannot be fetched; the line says what was
            tried, and what else can be done.
    """
    if source["path"]:
        return Path(source["path"]).expanduser()
    node = published(source, model, instead)
    if to_read and any(name.endswith(".index") for name in node.get("files", ())):
        from gptlit.weights.formats import import_tensorflow

        import_tensorflow(source["name"])
    if "urls" in source:
        return _from_mirrors(source, node, model, instead)
    return _from_hub(source, node, instead)


def published(source: Mapping[str, Any], model: str, instead: str = INSTEAD) -> dict[str, Any]:
    """Where a source has a model.

    Args:
        source, model, instead: as for `fetch`.

    Raises:
        UserError: the source has no such model.
    """
    models: dict[str, dict[str, Any]] = source.get("models") or {}
    if not models:
        raise UserError(
            f"weights={source['name']} has no published models: choose weights=huggingface,"
            f" openai or book, or {instead}"
        )
    if model not in models:
        near = get_close_matches(model, models, n=1, cutoff=0.5)
        raise UserError(
            f"weights={source['name']} has {', '.join(models)}, but no {model}:"
            f" use model={near[0] if near else next(iter(models))}, or {instead}"
        )
    return models[model]


def needed(config: Mapping[str, Any]) -> bool:
    """Whether a training with this config reads weights. A resumed one has them in its checkpoint,
    unless that has only an adapter."""
    source, apart = config["weights"], config["task"].get("adapter_only", False)
    return (source["path"] is not None or "models" in source) and (apart or not config["resume"])


def _from_mirrors(source: Mapping[str, Any], node: dict[str, Any], model: str, hint: str) -> Path:
    from gptlit.download import download

    root = source["cache_dir"] or default_cache_dir() / "weights" / source["name"]
    folder = Path(root).expanduser() / model
    for name, size in node["files"].items():
        urls = ["/".join(filter(None, (url, node["folder"], name))) for url in source["urls"]]
        download(urls, folder / name, size=size, hint=f"or {hint}")
    return folder


def _from_hub(source: Mapping[str, Any], node: dict[str, Any], hint: str) -> Path:
    import huggingface_hub as hub
    from huggingface_hub import constants, utils

    where = {
        "repo_id": node["repo"],
        "filename": node["file"],
        "revision": source["revision"],
        "cache_dir": source["cache_dir"] and Path(source["cache_dir"]).expanduser(),
    }
    # What is in the cache is what was published: no need to ask the hub on each start.
    cached = hub.try_to_load_from_cache(**where)
    if isinstance(cached, str):
        return Path(cached)
    utils.logging.set_verbosity_error()  # no warnings of its retries
    if not sys.stderr.isatty():
        utils.disable_progress_bars()  # type: ignore[attr-defined]
    try:
        # One attempt first: the download itself would retry a missing network for half a minute.
        hub.get_hf_file_metadata(
            hub.hf_hub_url(node["repo"], node["file"], revision=source["revision"])
        )
        return Path(hub.hf_hub_download(**where))
    except Exception as error:  # those of an HTTP library, of the hub's client, of the disk
        url = f"{constants.ENDPOINT}/{node['repo']}/resolve/{source['revision']}/{node['file']}"
        reason = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else _reason(error)
        raise UserError(
            f"cannot download {without_login(url)}: {reason}. Check the network (HF_ENDPOINT names"
            f" another hub, HF_TOKEN a login), or fetch the file by hand and {hint}"
        ) from error


def _reason(error: BaseException) -> str:
    """The first cause, in one line."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__ or error
    return in_one_line(error)
