"""Every error that qbawa raises on purpose.

`UserError` and below: the user can fix it; the command line prints the message alone and exits with 2.
`ProviderError` and below: a model call went wrong; `TransientError` is worth another try, `FinalError` is not.
"""

from typing import Literal

Billing = Literal["no", "unlikely", "unknown", "counted"]
"""Whether a failed attempt costs something: `no`, the provider did no work; `unlikely`, it says that it failed; `unknown`,
it may have done the work and nobody said how much; `counted`, it said how many tokens."""


class QbawaError(Exception):
    """Base of all."""


class UserError(QbawaError):
    """Something the user gave is wrong. The message says what, where, and what would be right."""


class ConfigError(UserError):
    """qbawa.yaml does not say something usable."""


class InputError(UserError):
    """A file, table or identifier that was handed in cannot be used."""


class TemplateError(UserError):
    """A prompt template cannot be rendered for this request."""


class UnfaithfulError(UserError):
    """A recorded question cannot be asked again as it was; anything else would be another question."""


class StorageError(UserError):
    """A disk, a folder or an object store refuses: full, read-only, not ours, a wrong key."""


class LakeFormatError(UserError):
    """The lake was written by a newer qbawa than this one."""


class LeakError(UserError):
    """A dataset would let the same question stand in training and in test."""


class BusyError(UserError):
    """Another qbawa process holds what this one needs."""


class LaunchError(UserError):
    """A server that qbawa starts on this machine does not come up."""


class DisconnectedError(QbawaError):
    """Some strategies never met, even indirectly, so they cannot be compared."""


class LakeConflictError(QbawaError):
    """Other writers changed the same blocks faster than this one could merge."""


class LedgerError(QbawaError):
    """The journal of paid calls cannot be written, so nothing more may be paid."""


class NotMadeError(QbawaError):
    """A call was not made, and cost nothing; its cell or match stays open and may be asked for again."""


class BudgetError(NotMadeError):
    """The next call would exceed a dollar cap, so it was not made."""


class ProviderError(QbawaError):
    """A model call went wrong. `reason` is a short stable word that is stored with the cell.

    `billing` says whether the attempt costs something all the same. An error of a whole call, as the engine raises it,
    says what the call has cost: `cost_usd` is None where nobody knows.
    """

    def __init__(self, reason: str, message: str, *, billing: Billing = "no") -> None:
        super().__init__(message)
        self.reason = reason
        self.billing = billing
        self.input_tokens: int | None = None
        self.output_tokens: int | None = None
        self.cost_usd: float | None = 0.0

    def count(self, input_tokens: int | None, output_tokens: int | None) -> None:
        """The provider answered with these tokens, None where it did not count them."""
        self.input_tokens, self.output_tokens = input_tokens, output_tokens
        self.billing = "unknown" if input_tokens is None or output_tokens is None else "counted"


class TransientError(ProviderError):
    """Worth another try: rate limit, server error, reset, timeout, malformed body."""

    def __init__(
        self, reason: str, message: str, retry_after_s: float | None = None, *, billing: Billing = "no"
    ) -> None:
        super().__init__(reason, message, billing=billing)
        self.retry_after_s = retry_after_s


class FinalError(ProviderError):
    """Never worth another try for this call: bad request, context too long, refused, unknown model, no price."""


class ModelStoppedError(FinalError):
    """Never worth another try for this model in this run: wrong key, exhausted quota."""
