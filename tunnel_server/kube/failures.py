"""What a request to the apiserver ends with, in one line: apiserver, request, cause, remedy."""

from __future__ import annotations

import errno
import json
import os
from http.client import IncompleteRead
from typing import TYPE_CHECKING

import urllib3.exceptions as u3

if TYPE_CHECKING:
    from tunnel_server.kube.resources import ApiResource

_SHOWN = 400
"""Characters of the apiserver's own words that are repeated."""


class ApiFailure(Exception):
    """A request failed; the text is one line for the operator."""

    def __init__(self, message: str, *, status: int = 0, reason: str = "") -> None:
        super().__init__(message)
        self.status = status
        """HTTP's; 0 if there was no answer."""
        self.reason = reason
        """Kubernetes' word for it: NotFound, AlreadyExists, Conflict, Expired, Forbidden."""

    @property
    def lasting(self) -> bool:
        """Whether the same request would fail again until somebody changes something."""
        return 400 <= self.status < 500 and self.status not in {408, 410, 429}


def refusal(host: str, request: ApiRequest, status: int, body: bytes) -> ApiFailure:
    """What an answer that is no success comes to."""
    said, reason = _status_object(body)
    text = f"apiserver {host}: {request}: {said or f'HTTP status {status}'}"
    return ApiFailure(text + _remedy(request, status, reason, said), status=status, reason=reason)


def no_answer(host: str, request: ApiRequest, error: Exception) -> ApiFailure:
    """What an exception of urllib3 or of the socket comes to."""
    return ApiFailure(f"apiserver {host}: {request}: {_cause(error)}")


class ApiRequest:
    """A request in RBAC's words."""

    def __init__(self, verb: str, resource: ApiResource, namespace: str = "", name: str = "") -> None:
        self.verb = verb
        self.resource = resource
        self.namespace = namespace
        self.name = name

    def __str__(self) -> str:
        what = f"{self.resource} {self.name}" if self.name else str(self.resource)
        return f"{self.verb} {what}" + (f" in {self.namespace}" if self.namespace else "")


def _status_object(body: bytes) -> tuple[str, str]:
    try:
        status = json.loads(body)
        said, reason = status.get("message", ""), status.get("reason", "")
    except (ValueError, AttributeError, RecursionError):
        return "", ""
    return " ".join(str(said).split())[:_SHOWN], str(reason)


def _remedy(request: ApiRequest, status: int, reason: str, said: str) -> str:
    match status:
        case 401:
            return "; has the token or the certificate expired, or is it another cluster's?"
        case 403 if "forbidden: User" in said:
            where = f"a Role in {request.namespace}" if request.namespace else "a ClusterRole"
            return f"; its account needs the verb {request.verb} on {request.resource} in {where}"
        case 404 if not reason:
            return f"; this apiserver does not serve {request.resource.api_version}"
        case 409 if reason == "Conflict" and request.verb == "patch":
            return "; somebody else manages this field: have them leave it, or remove the object"
    return ""


def _cause(error: Exception) -> str:
    cause = _innermost(error)
    match cause:
        case u3.NameResolutionError():
            return "its name cannot be resolved: check DNS, and `server` of the kubeconfig"
        case u3.ConnectTimeoutError() | u3.ReadTimeoutError() | TimeoutError():
            return "no answer in time"
        case ConnectionRefusedError():
            return "nothing listens there: is it running?"
        case ConnectionResetError() | BrokenPipeError() | IncompleteRead() | u3.ProtocolError():
            return "the connection was cut"
        case OSError() if cause.errno in {errno.ENETUNREACH, errno.EHOSTUNREACH}:
            return f"{os.strerror(cause.errno)}: is there a route, and no firewall in between?"
    words = " ".join(str(cause).split())[:_SHOWN]
    if "CERTIFICATE_VERIFY_FAILED" in words:
        _, _, why = words.partition("certificate verify failed: ")
        return f"its certificate is not trusted: {why or words}; check the CA that is configured for it"
    return words or type(cause).__name__


def _innermost(error: Exception) -> BaseException:
    """urllib3 wraps what it was given, more than once."""
    cause: BaseException = error
    telling = u3.NameResolutionError | u3.TimeoutError | IncompleteRead
    # A NewConnectionError is a TimeoutError, but one for whatever kept a connection from being made.
    while not isinstance(cause, telling) or type(cause) is u3.NewConnectionError:
        before = None if cause.__suppress_context__ else cause.__context__
        inner = cause.__cause__ or before or getattr(cause, "reason", None)
        if not isinstance(inner, BaseException):
            break
        cause = inner
    return cause
