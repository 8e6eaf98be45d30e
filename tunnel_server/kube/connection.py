"""The one way in which requests go to an apiserver: credentials, timeouts, tries again, failures in one line.

TLS and credentials are those of the package `kubernetes` (see `tunnel_server.kube.access`).
"""

from __future__ import annotations

import json
import logging
import threading
import time
from typing import TYPE_CHECKING

import urllib3
from kubernetes.client import ApiException

from tunnel_server.kube.failures import ApiFailure, ApiRequest, no_answer, refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from kubernetes.client import ApiClient

    from tunnel_server.kube.resources import Object

log = logging.getLogger(__name__)

_RELOAD_PAUSE = 1.0
"""Seconds between two looks at credentials that are refused."""
_PAUSES = (0.5, 5.0)
"""Seconds between two tries, at first and at most."""


class ApiConnection:
    """One apiserver, and the credentials to ask it with. May be used from any thread.

    Credentials that are refused are read again, from whatever file or plugin gave them, and tried once more:
    a token that expires is replaced in its file by whoever issues it.
    """

    def __init__(
        self, connect: Callable[[], ApiClient], *, timeout: float = 10.0, patience: float = 0.0
    ) -> None:
        """Take what reads the credentials (see `tunnel_server.kube.access`), and do. Raises ApiFailure.

        `timeout`, in seconds, is for the connection, and again for each read of the answer. For `patience`
        seconds a request is tried again while nobody answers, or the apiserver is too busy: for those only
        whose requests do no harm when an answer was lost and they are repeated.
        """
        self._connect = connect
        self._timeout = timeout
        self._patience = patience
        self._lock = threading.Lock()
        self._loaded = time.monotonic()
        self.client = connect()
        """What has TLS and credentials."""

    @property
    def host(self) -> str:
        """The apiserver's URL."""
        return str(self.client.configuration.host)

    def ask(
        self,
        request: ApiRequest,
        method: str,
        body: Object | None = None,
        *,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
        once: bool = False,
    ) -> Object:
        """Return the object that is the answer. `once`: without patience. Raises ApiFailure."""
        data = self.read(request, method, body, query=query, content_type=content_type, once=once)
        try:
            found: Object = json.loads(data)
        except ValueError:
            raise ApiFailure(f"apiserver {self.host}: {request}: its answer is not JSON") from None
        return found

    def read(
        self,
        request: ApiRequest,
        method: str = "GET",
        body: Object | None = None,
        *,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
        once: bool = True,
    ) -> bytes:
        """Return the whole body of the answer. `once`: without patience. Raises ApiFailure."""
        for pause in _pauses(0.0 if once else self._patience):
            try:
                response = self.open(request, method, body, query=query, content_type=content_type)
                try:
                    return response.data
                except (urllib3.exceptions.HTTPError, OSError) as error:
                    raise no_answer(self.host, request, error) from None
            except ApiFailure as failure:
                if pause is None or failure.lasting:
                    raise
            time.sleep(pause)
        raise AssertionError  # the last turn has no pause

    def open(
        self,
        request: ApiRequest,
        method: str = "GET",
        body: Object | None = None,
        *,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
        lasting: float = 0.0,
    ) -> urllib3.HTTPResponse:
        """Return a successful answer, unread, whose bytes may be `lasting` seconds longer apart. Close it.

        With credentials that are read again if they are refused. Raises ApiFailure; its reads raise what
        urllib3 raises.
        """
        for again in (True, False):
            client = self.client
            try:
                response = self._send(client, request, method, body, query, content_type, lasting)
                if 200 <= response.status < 300:
                    return response
                failure = refusal(self.host, request, response.status, response.data)
            except (urllib3.exceptions.HTTPError, ApiException, OSError) as error:
                raise no_answer(self.host, request, error) from None
            if failure.status != 401 or not again or not self._reconnect(client):
                break
        raise failure

    def close(self) -> None:
        """Close idle connections."""
        self.client.close()  # type: ignore[no-untyped-call]

    def _send(
        self,
        client: ApiClient,
        request: ApiRequest,
        method: str,
        body: Object | None,
        query: Mapping[str, str] | None,
        content_type: str,
        lasting: float,
    ) -> urllib3.HTTPResponse:
        headers = {"Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = content_type
        method, url, headers, *rest = client.param_serialize(
            method,
            request.resource.path(request.namespace, request.name),
            query_params=list((query or {}).items()),
            header_params=headers,
            body=body,
            auth_settings=["BearerToken"],
        )
        timeout = (self._timeout, self._timeout + lasting)
        answer = client.call_api(method, url, headers, rest[0], _request_timeout=timeout)
        response: urllib3.HTTPResponse = answer.response
        return response

    def _reconnect(self, refused: ApiClient) -> bool:
        """Read the credentials again, unless somebody just did; whether it is worth another try."""
        with self._lock:
            if self.client is not refused:
                return True
            if time.monotonic() - self._loaded < _RELOAD_PAUSE:
                return False
            self._loaded = time.monotonic()
            try:
                self.client = self._connect()
            except ApiFailure as failure:
                log.warning("%s", failure)
                return False
        return True


def _pauses(patience: float) -> Iterator[float | None]:
    """Yield the seconds to wait after each failed try, then None: there is no other."""
    end, (pause, longest) = time.monotonic() + patience, _PAUSES
    while time.monotonic() + pause < end:
        yield pause
        pause = min(2 * pause, longest)
    yield None
