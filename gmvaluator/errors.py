"""The tree of errors that the product raises.

GmvaluatorError
├── InvalidInput ─────────── the request cannot be used as it is
│   ├── InvalidImage
│   │   └── ImageTooLarge
│   ├── InvalidVector
│   ├── InvalidValuation
│   ├── InvalidPolicy
│   └── InvalidManifest
├── PreconditionFailed ───── the system is not set up for the request
│   ├── UnknownGenerator
│   ├── UnknownProfile
│   ├── UnknownModel
│   ├── ProfileMismatch
│   ├── MissingIndex
│   ├── MissingData
│   ├── MissingWeights
│   └── AlreadyHeld
├── Unauthenticated ──────── no token, or none that is valid
├── Forbidden ────────────── the caller's role does not allow this
├── NotFound ─────────────── nothing is stored under this id
├── Conflict ─────────────── the id is taken
│   └── GenerationConflict
├── Overloaded ───────────── refused for now: retry
├── Unavailable ──────────── a dependency cannot be reached: retry
│   ├── IndexUnavailable
│   └── LedgerFailed
└── Failure ──────────────── an internal error
    ├── ModelFailed
    ├── IndexFailed
    └── LedgerCorrupt

Messages say what to do next and carry the id that they are about. Programs define subclasses of their own next to the
code that raises them. `GRPC_STATUS` and `EXIT_CODE` are the only places where an error becomes a status or an exit
code; both list the branches, and a subclass has the codes of its branch.
"""

from __future__ import annotations


class GmvaluatorError(Exception):
    """Root of the tree. Catch it where a program meets its caller only."""


class InvalidInput(GmvaluatorError):
    """The request cannot be used; sending it again changes nothing."""


class InvalidImage(InvalidInput):
    """The bytes are not an image that can be valued."""


class ImageTooLarge(InvalidImage):
    """The image exceeds the limit of bytes or pixels."""


class InvalidVector(InvalidInput):
    """A vector is not finite, not of unit norm or not of the expected dimension."""


class InvalidValuation(InvalidInput):
    """A distance, a quality or a weight is outside its range."""


class InvalidPolicy(InvalidInput):
    """A policy file cannot be used."""


class InvalidManifest(InvalidInput):
    """A manifest or a row of it cannot be used."""


class PreconditionFailed(GmvaluatorError):
    """The system is not set up for the request; an operator has to act first."""


class UnknownGenerator(PreconditionFailed):
    """No generator is registered under this model version."""


class UnknownProfile(PreconditionFailed):
    """No profile has this name."""


class UnknownModel(PreconditionFailed):
    """A model family has no architecture, type or weights of this name."""


class ProfileMismatch(PreconditionFailed):
    """The index was built with another profile than the one in use."""


class MissingIndex(PreconditionFailed):
    """The collection does not exist."""


class MissingData(PreconditionFailed):
    """The data folder or a file in it does not exist."""


class MissingWeights(PreconditionFailed):
    """A model's weights are absent or are not the pinned ones."""


class AlreadyHeld(PreconditionFailed):
    """Another process holds the lock of the file to be written."""


class Unauthenticated(GmvaluatorError):
    """No token was sent, or it is unknown or expired."""


class Forbidden(GmvaluatorError):
    """The caller's role does not allow this."""


class NotFound(GmvaluatorError):
    """Nothing is stored under this id."""


class Conflict(GmvaluatorError):
    """The id was used before, for something else."""


class GenerationConflict(Conflict):
    """The generation id was used before, for another image or generator."""


class Overloaded(GmvaluatorError):
    """Refused because of load. Retry after `retry_after_ms` milliseconds, if that is known."""

    def __init__(self, message: str, retry_after_ms: int | None = None) -> None:
        super().__init__(message)
        self.retry_after_ms = retry_after_ms


class Unavailable(GmvaluatorError):
    """The service, or something that it depends on, cannot be used now: it starts or stops, has failed, or cannot be
    reached."""


class IndexUnavailable(Unavailable):
    """The vector index cannot be reached."""


class LedgerFailed(Unavailable):
    """The ledger could not write: its writer stops and the process ends. Sending the same id again is safe."""


class Failure(GmvaluatorError):
    """An internal error; the operator's log has the details."""


class ModelFailed(Failure):
    """A model raised, or returned numbers that are not finite."""


class IndexFailed(Failure):
    """The vector index failed during a query or a build."""


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
"""Exit status for each branch: 2 for a user error, 1 for an internal error."""


def status_of(error: GmvaluatorError) -> str:
    """Return the name of the gRPC status for `error`, by its branch."""
    return GRPC_STATUS[_branch(type(error))]


def exit_code_of(error: GmvaluatorError) -> int:
    """Return the exit status for `error`: 2 for a user error, 1 for an internal error."""
    return EXIT_CODE[_branch(type(error))]


def _branch(kind: type[GmvaluatorError]) -> type[GmvaluatorError]:
    return next(ancestor for ancestor in kind.__mro__ if ancestor in GRPC_STATUS)
