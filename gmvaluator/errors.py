"""Every error the product raises on purpose, in one tree.

GmvaluatorError
├── InvalidInput ─────────── the caller sent something that cannot be used
│   ├── InvalidImage
│   │   └── ImageTooLarge
│   ├── InvalidVector
│   ├── InvalidValuation
│   ├── InvalidPolicy
│   └── InvalidManifest
├── PreconditionFailed ───── the system is not set up for what was asked
│   ├── UnknownGenerator
│   ├── UnknownProfile
│   ├── UnknownModel
│   ├── ProfileMismatch
│   ├── MissingIndex
│   ├── MissingData
│   ├── MissingWeights
│   └── AlreadyHeld
├── Unauthenticated ──────── who calls is not known: no token, or none that counts
├── Forbidden ────────────── who calls may not do this
├── NotFound
├── Conflict ─────────────── an id was used before, for something else
│   └── GenerationConflict
├── Overloaded ───────────── refused now, may be sent again
├── Unavailable ──────────── a part the answer needs cannot be reached
│   ├── IndexUnavailable
│   └── LedgerFailed
└── Failure ──────────────── something broke inside
    ├── ModelFailed
    ├── IndexFailed
    └── LedgerCorrupt

Messages say what to do next and carry the id they are about. `GRPC_STATUS` and `EXIT_CODE` are the only
places where an error becomes a status or an exit code; `status_of` walks the tree upwards.
"""

from __future__ import annotations


class GmvaluatorError(Exception):
    """Root of the tree; catch it at a program's border only."""


class InvalidInput(GmvaluatorError):
    """The caller sent something that cannot be used; sending it again changes nothing."""


class InvalidImage(InvalidInput):
    """The bytes are no image that can be valued."""


class ImageTooLarge(InvalidImage):
    """The image is over the limit of bytes or pixels."""


class InvalidVector(InvalidInput):
    """A vector is not finite, not of unit norm or not of the expected dimension."""


class InvalidValuation(InvalidInput):
    """Distances or a quality are outside their ranges."""


class InvalidPolicy(InvalidInput):
    """A policy file cannot be used."""


class InvalidManifest(InvalidInput):
    """A manifest cannot be read or lacks a column."""


class PreconditionFailed(GmvaluatorError):
    """The system is not set up for what was asked; an operator has to act first."""


class UnknownGenerator(PreconditionFailed):
    """No generator is registered under this model version."""


class UnknownProfile(PreconditionFailed):
    """No profile has this name."""


class UnknownModel(PreconditionFailed):
    """A model family has no architecture, type or weights of this name."""


class ProfileMismatch(PreconditionFailed):
    """The index was built by another profile than the one in use."""


class MissingIndex(PreconditionFailed):
    """The collection does not exist."""


class MissingData(PreconditionFailed):
    """The data folder or a file in it does not exist."""


class MissingWeights(PreconditionFailed):
    """A model's weights are absent or are not the pinned ones."""


class AlreadyHeld(PreconditionFailed):
    """Another process holds the file that was to be written."""


class Unauthenticated(GmvaluatorError):
    """No token was sent, or none that is known."""


class Forbidden(GmvaluatorError):
    """The caller's role does not allow this."""


class NotFound(GmvaluatorError):
    """Nothing is stored under this id."""


class Conflict(GmvaluatorError):
    """The id was used before, for something else."""


class GenerationConflict(Conflict):
    """The generation id was used before, for another image or generator."""


class Overloaded(GmvaluatorError):
    """Refused because too much is waiting; may be sent again after a pause, `retry_after_ms` if that is known."""

    def __init__(self, message: str, retry_after_ms: int | None = None) -> None:
        super().__init__(message)
        self.retry_after_ms = retry_after_ms


class Unavailable(GmvaluatorError):
    """A part that the answer needs cannot be reached now."""


class IndexUnavailable(Unavailable):
    """The vector index cannot be reached."""


class LedgerFailed(Unavailable):
    """The ledger could not write; its writer stops and the process ends. Sending the same id again is safe."""


class Failure(GmvaluatorError):
    """Something broke inside; the operator's log says more."""


class ModelFailed(Failure):
    """A model raised, or returned numbers that are not finite."""


class IndexFailed(Failure):
    """The vector index broke while it answered or was built."""


class LedgerCorrupt(Failure):
    """Stored postings do not add up or the chain is broken."""


GRPC_STATUS: dict[type[GmvaluatorError], str] = {
    InvalidInput: "INVALID_ARGUMENT",
    PreconditionFailed: "FAILED_PRECONDITION",
    Unauthenticated: "UNAUTHENTICATED",
    Forbidden: "PERMISSION_DENIED",
    NotFound: "NOT_FOUND",
    Conflict: "ALREADY_EXISTS",
    Overloaded: "RESOURCE_EXHAUSTED",
    Unavailable: "UNAVAILABLE",
    Failure: "INTERNAL",
}
"""gRPC status code, by name, for each branch of the tree."""

EXIT_CODE: dict[type[GmvaluatorError], int] = {
    InvalidInput: 2,
    PreconditionFailed: 2,
    Unauthenticated: 2,
    Forbidden: 2,
    NotFound: 2,
    Conflict: 2,
    Overloaded: 1,
    Unavailable: 1,
    Failure: 1,
}
"""Process exit code for each branch: 2 is the caller's to mend, 1 is ours."""


def status_of(error: GmvaluatorError) -> str:
    """Name of the gRPC status for `error`: that of its nearest ancestor in `GRPC_STATUS`."""
    return GRPC_STATUS[_branch(type(error))]


def exit_code_of(error: GmvaluatorError) -> int:
    """Exit code for `error`: that of its nearest ancestor in `EXIT_CODE`."""
    return EXIT_CODE[_branch(type(error))]


def _branch(kind: type[GmvaluatorError]) -> type[GmvaluatorError]:
    return next(ancestor for ancestor in kind.__mro__ if ancestor in GRPC_STATUS)
