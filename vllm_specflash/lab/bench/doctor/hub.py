"""Whether the hub, or its cache on this machine, has a model: one question, no retries."""

from vllm_specflash.config import as_path, first_sentence

SECONDS = 5
# What a path begins with, and no hub id does.
PATH = (".", "/", "~")


def unreachable(name: str, file: str = "config.json", revision: str | None = None) -> str | None:
    """Why `name` can be read neither here nor from the hub, in one line; None where it can.

    Where the hub is silent and its cache has `file` of it, this process is set offline, so that nothing asked afterwards
    tries the hub again and again.

    Args:
        name: folder or hub id.
    """
    if as_path(name).is_dir():
        return None
    if name.startswith(PATH):
        return f"the folder {name} does not exist"
    from huggingface_hub import HfApi, constants, try_to_load_from_cache
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    reason = "HF_HUB_OFFLINE is set"
    if not constants.HF_HUB_OFFLINE:
        try:
            HfApi().model_info(name, revision=revision, timeout=SECONDS)
            return None
        except RepositoryNotFoundError:
            return f"there is no folder {name} here, and the hub has no such model for you"
        except RevisionNotFoundError:
            return f"the hub's {name} has no revision {revision}"
        # Whatever library asks, its own errors: no name, no route, no answer in time.
        except Exception as error:
            reason = f"the hub cannot be reached: {first_sentence(error)}"
    try:
        cached = isinstance(try_to_load_from_cache(name, file, revision=revision), str)
    except ValueError:
        return f"there is no folder {name} here, and it is no hub id"
    if not cached:
        return f"there is no folder {name} here, and nothing of it in the hub's cache ({reason})"
    constants.HF_HUB_OFFLINE = True
    return None
