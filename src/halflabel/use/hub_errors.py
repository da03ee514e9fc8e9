"""What went wrong with the Hub, in one line that says what to do."""

from collections.abc import Iterator

import httpx2
from huggingface_hub import constants
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from ..model.errors import reason_of

_LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"


def hub_reason(error: BaseException) -> str:
    """Return why a call to the Hub failed, and what to do about it.

    Args:
        error: What huggingface_hub or transformers raised; the errors that it was raised from are looked at too, the
            innermost first, since transformers puts general advice around the one that knows.
    """
    for cause in reversed(list(_causes(error))):
        reason = _reason(cause)
        if reason:
            return reason
    if constants.HF_HUB_OFFLINE and any(isinstance(cause, LocalEntryNotFoundError) for cause in _causes(error)):
        return _reason(OfflineModeIsEnabled()) or ""
    return reason_of(error)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _reason(error: BaseException) -> str | None:
    """Return the line for one error; None if it says nothing of its own."""
    if isinstance(error, OfflineModeIsEnabled):
        return "it is not in the cache, and HF_HUB_OFFLINE forbids to ask the Hub: unset it"
    if isinstance(error, LocalTokenNotFoundError):
        return f"there is no token: {_LOG_IN}"
    if isinstance(error, GatedRepoError):
        return f"access to it is gated: ask for it on its page at the Hub, then {_LOG_IN}"
    if isinstance(error, RevisionNotFoundError):
        return "it has no such revision: give a branch, a tag or a commit of it"
    if isinstance(error, HfHubHTTPError):
        return _status_reason(error)
    if isinstance(error, httpx2.TransportError):
        return f"the Hub cannot be reached at {constants.ENDPOINT} ({error or type(error).__name__}); check the network"
    return None


def _status_reason(error: HfHubHTTPError) -> str | None:
    status, said = error.response.status_code, error.server_message or "no reason given"
    if isinstance(error, EntryNotFoundError):
        return None
    if isinstance(error, RepositoryNotFoundError):
        return f"there is no such repository, or this token may not see it: check the name, and {_LOG_IN}"
    if status == 401:
        given = "authorization" in error.response.request.headers
        return f"{'the Hub does not accept the token' if given else 'the Hub asks for a token'}: {_LOG_IN}"
    if status == 403:
        return f"the token does not allow it ({said}): take a name of your own, or a token with write permission"
    return f"the Hub answers {status} ({said})" + ("; try again later" if status >= 500 else "")
