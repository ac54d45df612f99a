"""Every error this product raises on purpose: what was expected, what was found, and a hint what to do.

Words are chosen where the fact is known; the status code and the exit code are chosen once, at the edge (registry/api/errors.py, commands/frame.py).
This module imports nothing.
"""


class RegistryError(Exception):
    """An error with a sentence for people and, where one helps, a hint what to do next.

    `code` is stable and machine-readable; the API answers with it beside the sentences.
    """

    code = "error"

    def __init__(self, message: str, hint: str | None = None) -> None:
        """Keep both sentences; `str()` gives the message alone."""
        super().__init__(message)
        self.message = message
        self.hint = hint


def told_outside(error: BaseException) -> str:
    """An error in words for whoever may read a job: our own sentences; of anything else only its kind, since its text may name whatever is on the machine."""
    if isinstance(error, RegistryError):
        return error.message
    return unforeseen(type(error).__name__)


def unforeseen(kind: str) -> str:
    """The sentence for an error of a kind that is not ours."""
    return f"unforeseen: {kind}; the worker's log says more"


class NotFound(RegistryError):
    """The thing named does not exist, or may not be seen by the one who asks."""

    code = "not_found"


class Invalid(RegistryError):
    """The input breaks a rule that the message names."""

    code = "invalid"


class AlreadyExists(RegistryError):
    """The name is taken by something else."""

    code = "already_exists"


class Conflict(RegistryError):
    """The request contradicts the present state."""

    code = "conflict"


class Stale(RegistryError):
    """A compare-and-swap found another value than the one expected."""

    code = "precondition_failed"


class Gone(RegistryError):
    """The thing existed and was retired."""

    code = "gone"


class NotPromotable(RegistryError):
    """The policy refused an alias move; `reasons` lists each one."""

    code = "not_promotable"

    def __init__(self, message: str, reasons: list[str], hint: str | None = None) -> None:
        """Keep every reason, not only the first."""
        super().__init__(message, hint)
        self.reasons = reasons


class DigestMismatch(RegistryError):
    """Bytes arrived that do not have the digest they were announced with."""

    code = "digest_mismatch"


class Unauthorized(RegistryError):
    """No token, or one that is unknown, expired or revoked."""

    code = "unauthorized"


class Forbidden(RegistryError):
    """The token is good but does not carry the permission."""

    code = "forbidden"


class Unavailable(RegistryError):
    """The database or the artifact store does not answer at the moment; nothing was changed."""

    code = "unavailable"


class TooLarge(RegistryError):
    """The upload exceeds the limit that the message names."""

    code = "too_large"


class WrongRevision(RegistryError):
    """The database schema is not the one this code was written for."""

    code = "wrong_revision"


class TrainingFailed(RegistryError):
    """The training process ended without an adapter."""

    code = "training_failed"


class Paused(RegistryError):
    """Work was stopped on purpose before its end and left whole: the same command goes on from there."""

    code = "paused"
