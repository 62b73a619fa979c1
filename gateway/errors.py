"""Everything that can go wrong here, split by whose fault it is.

GatewayError
|- OperatorError          the one who started us; ends the process with one line
|  |- ConfigRefused       a flag or field that cannot be honoured, exit code 2
|  `- StartFailed         busy port, a model that cannot be loaded, workers that will not start, exit code 1
`- ApiError               answers one HTTP request
   |- ClientError
   |  |- InvalidRequest       400 a field, named in `param`
   |  |- InputRefused         400 a worker found the input unusable
   |  |- Unauthenticated      401 no key, or none that holds
   |  |- Forbidden            403 a key without the scope, or a caller from where it may not be
   |  |- ModelNotFound        404
   |  |- RouteNotFound        404
   |  |- FileUnknown          404
   |  |- MethodNotAllowed     405
   |  |- ModelLeaving         409 retry
   |  |- BodyTooSlow          408
   |  |- BodyTooLarge         413
   |  |- WrongContentType     415
   |  |- BadHttp              any other refusal of the HTTP layer
   |  `- ClientLeft           499 never sent: nobody is listening
   |- OurError
   |  |- QueueFull            429 retry
   |  |- DeadlineInfeasible   429 retry
   |  |- KeyBusy              429 retry
   |  |- NotReady             503 retry
   |  |- TooManyConnections   503 retry
   |  |- ShuttingDown         503 retry
   |  |- FilesFull            503 retry
   |  |- ModelUnloaded        503 its model was unloaded under it
   |  |- DeadlineMissed       504 it asked to be dropped then
   |  `- InternalError        500
   `- PeerError               a worker
      |- StageFailed          500
      |- OutOfMemory          500
      |- PoisonRequest        500 two workers died of it
      |- HandoffsLost         500
      |- ModelFailed          500 a model cannot be loaded, or not kept
      `- StoreExhausted       503 retry
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar


class GatewayError(Exception):
    """Base of this package's errors."""


class OperatorError(GatewayError):
    """Ends the process: one line on stderr and `exit_code`."""

    exit_code: ClassVar[int] = 1


class ConfigRefused(OperatorError):
    """A configuration field that cannot be honoured. `field` is its name, `source` where it was set."""

    exit_code = 2

    def __init__(self, field: str, reason: str, *, source: str | None = None) -> None:
        super().__init__(f"{source}: {field}: {reason}" if source else f"{field}: {reason}")
        self.field = field
        self.reason = reason
        self.source = source

    def by(self, sources: Mapping[str, str]) -> ConfigRefused:
        """The same with its source, from field to source, if it has none yet."""
        return ConfigRefused(self.field, self.reason, source=self.source or sources.get(self.field))


class StartFailed(OperatorError):
    """The gateway cannot serve: the port, the model or the workers."""


class ApiError(GatewayError):
    """Answers one HTTP request with `status`. `kind` is OpenAI's `type`.

    `may_retry`: the same request may succeed later, after `retry_after_s` if that is known.
    """

    status: ClassVar[int] = 500
    kind: ClassVar[str] = "server_error"
    code: str = "internal_error"
    may_retry: ClassVar[bool] = False
    retry_after_s: float | None = None

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param

    def body(self) -> dict[str, Any]:
        """What the client reads, in OpenAI's shape."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}

    @property
    def http_status(self) -> int:
        return self.status

    def headers(self) -> dict[str, str]:
        """`Retry-After` in whole seconds if a retry may help, and what OpenAI's own client reads."""
        headers = {"X-Should-Retry": "true" if self.may_retry else "false"}
        if self.may_retry:
            headers["Retry-After"] = str(max(1, round(self.retry_after_s or 1.0)))
        return headers


class ClientError(ApiError):
    """The caller's fault."""

    status = 400
    kind = "invalid_request_error"
    code = "invalid_request"


class InvalidRequest(ClientError):
    """A field that is unknown, missing, of a wrong type or out of bounds."""

    def __init__(self, message: str, *, param: str | None = None, code: str = "invalid_value") -> None:
        super().__init__(message, param=param)
        self.code = code


class InputRefused(ClientError):
    """A worker found the input unusable."""

    code = "input_refused"


class Unauthenticated(ClientError):
    """No key, or none that holds."""

    status = 401
    code = "invalid_api_key"

    def headers(self) -> dict[str, str]:
        return {**super().headers(), "WWW-Authenticate": "Bearer"}


class Forbidden(ClientError):
    """Known, or from where nobody needs a key, and still not allowed this."""

    status = 403

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(message)
        self.code = code


class ModelNotFound(ClientError):
    status = 404
    code = "model_not_found"


class ModelLeaving(ClientError):
    """A model that is being unloaded cannot be loaded before it is gone."""

    status = 409
    code = "model_unloading"
    may_retry = True
    retry_after_s = 2.0


class RouteNotFound(ClientError):
    status = 404
    code = "not_found"


class FileUnknown(ClientError):
    status = 404
    code = "file_not_found"


class MethodNotAllowed(ClientError):
    status = 405
    code = "method_not_allowed"


class BodyTooSlow(ClientError):
    status = 408
    code = "body_timeout"


class BodyTooLarge(ClientError):
    status = 413
    code = "body_too_large"


class WrongContentType(ClientError):
    status = 415
    code = "wrong_content_type"


class BadHttp(ClientError):
    """Any other status the HTTP layer refuses with."""

    code = "bad_request"

    def __init__(self, message: str, *, http_status: int = 400) -> None:
        super().__init__(message)
        self._http_status = http_status

    @property
    def http_status(self) -> int:
        return self._http_status


class ClientLeft(ClientError):
    """The client closed its connection; nobody reads this."""

    status = 499
    code = "client_left"


class OurError(ApiError):
    """Ours: load, start and stop, and bugs."""


class QueueFull(OurError):
    """The bound on waiting jobs would be passed."""

    status = 429
    kind = "rate_limit_error"
    code = "queue_full"
    may_retry = True

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DeadlineInfeasible(OurError):
    """It could not be done by its deadline, and nothing of it was begun."""

    status = 429
    kind = "rate_limit_error"
    code = "deadline_infeasible"
    may_retry = True

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message, param="slo_ms")
        self.retry_after_s = retry_after_s


class KeyBusy(OurError):
    """As many requests of this key are open as it may have."""

    status = 429
    kind = "rate_limit_error"
    code = "key_busy"
    may_retry = True


class NotReady(OurError):
    status = 503
    code = "not_ready"
    may_retry = True
    retry_after_s = 5.0


class TooManyConnections(OurError):
    status = 503
    code = "too_many_connections"
    may_retry = True
    retry_after_s = 2.0


class ShuttingDown(OurError):
    status = 503
    code = "shutting_down"
    may_retry = True
    retry_after_s = 10.0


class FilesFull(OurError):
    """There is no room for the files that were asked for as URLs."""

    status = 503
    code = "files_full"
    may_retry = True

    def __init__(self, message: str, *, retry_after_s: float = 5.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DeadlineMissed(OurError):
    """It was not done by its deadline, and had asked to be dropped then."""

    status = 504
    code = "deadline_missed"


class ModelUnloaded(OurError):
    """The operator unloaded the model, and the request was not done within the bound."""

    status = 503
    code = "model_unloaded"


class InternalError(OurError):
    """A bug of ours."""


class PeerError(ApiError):
    """A worker's fault, as far as anyone can tell."""

    code = "worker_error"


class StageFailed(PeerError):
    code = "stage_failed"


class OutOfMemory(PeerError):
    code = "out_of_memory"


class PoisonRequest(PeerError):
    """Two workers died in the same stage of it, and the second got no further than the first."""

    code = "worker_died_twice"


class ModelFailed(PeerError):
    """A model could not be loaded, or can be run on no worker any more."""

    code = "model_failed"


class HandoffsLost(PeerError):
    """Its handoff files went missing again and again."""

    code = "handoff_lost"


class StoreExhausted(PeerError):
    """The handoff store stayed full over several attempts."""

    status = 503
    code = "handoff_store_full"
    may_retry = True
    retry_after_s = 5.0
