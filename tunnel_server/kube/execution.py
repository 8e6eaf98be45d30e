"""Running a command in a pod, as `kubectl exec` does: its output and its exit code.

Over a WebSocket with the subprotocol v4.channel.k8s.io: each message begins with the number of its channel.
The `kubernetes` package has a client for that, which waits forever for an apiserver that falls silent.
"""

from __future__ import annotations

import json
import ssl
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit, urlunsplit

import websocket
from kubernetes.stream.ws_client import websocket_proxycare

from tunnel_server.kube.failures import ApiFailure, ApiRequest, no_answer, refusal
from tunnel_server.kube.resources import PODS, ApiResource

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

    from tunnel_server.kube.client import Cluster
    from tunnel_server.kube.resources import Object

_STDOUT, _STDERR, _RESULT = 1, 2, 3
MAX_OUTPUT = 64 * 1024 * 1024
"""Bytes of output, after which the command is given up."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A command that ended."""

    code: int
    stdout: str
    stderr: str


def execute(cluster: Cluster, pod: Object, container: str, command: list[str], *, timeout: float) -> Finished:
    """Run `command` in a container and wait for its end, `timeout` seconds at most. Raises ApiFailure."""
    client, metadata = cluster.connection.client, pod["metadata"]
    namespace, name = metadata["namespace"], metadata["name"]
    words = [("command", each) for each in command]
    query = urlencode([*words, ("container", container), ("stdout", "true"), ("stderr", "true")])
    path = f"{PODS.path(namespace, name)}/exec"
    request = ApiRequest("create", ApiResource("pods/exec", "Pod"), namespace, name)
    host = cluster.host
    deadline = time.monotonic() + timeout
    serialized: Any = client.param_serialize("GET", path, auth_settings=["BearerToken"])
    try:
        connection = _connect(client, f"{serialized[1]}?{query}", serialized[2], timeout)
        try:
            return _collect(connection, deadline, host, request)
        finally:
            connection.shutdown()  # type: ignore[no-untyped-call]
    except websocket.WebSocketBadStatusException as error:
        raise refusal(host, request, error.status_code, error.resp_body or b"") from None
    except (websocket.WebSocketException, OSError) as error:
        raise no_answer(host, request, error) from None


def _connect(client: ApiClient, url: str, headers: dict[str, str], timeout: float) -> websocket.WebSocket:
    configuration: Any = client.configuration
    parts = urlsplit(url)
    url = urlunsplit(parts._replace(scheme={"http": "ws", "https": "wss"}[parts.scheme]))
    authorization = {key: text for key, text in headers.items() if key.lower() == "authorization"}
    options: dict[str, Any] = {"header": authorization}
    if configuration.proxy or configuration.proxy_headers:
        options = websocket_proxycare(options, configuration, url, headers)  # type: ignore[no-untyped-call]
    connection = websocket.WebSocket(sslopt=_tls(configuration))
    options |= {"subprotocols": ["v4.channel.k8s.io"], "timeout": timeout}
    connection.connect(url, **options)  # type: ignore[no-untyped-call]
    return connection


def _tls(configuration: Any) -> dict[str, Any]:  # noqa: ANN401 - its type names none of these
    if not configuration.verify_ssl:
        return {"cert_reqs": ssl.CERT_NONE, "check_hostname": False, **_own(configuration)}
    return {"cert_reqs": ssl.CERT_REQUIRED, "ca_certs": configuration.ssl_ca_cert, **_own(configuration)}


def _own(configuration: Any) -> dict[str, Any]:  # noqa: ANN401
    found = {
        "certfile": configuration.cert_file,
        "keyfile": configuration.key_file,
        "server_hostname": configuration.tls_server_name,
    }
    return {key: value for key, value in found.items() if value}


def _collect(connection: websocket.WebSocket, deadline: float, host: str, request: ApiRequest) -> Finished:
    channels = {_STDOUT: bytearray(), _STDERR: bytearray(), _RESULT: bytearray()}
    while not channels[_RESULT]:
        left = deadline - time.monotonic()
        if left <= 0 or sum(map(len, channels.values())) > MAX_OUTPUT:
            raise ApiFailure(f"apiserver {host}: {request}: the command does not end")
        connection.settimeout(left)
        code, data = connection.recv_data()
        if code == websocket.ABNF.OPCODE_CLOSE:
            raise ApiFailure(f"apiserver {host}: {request}: cut before the command had ended")
        if data and data[0] in channels:
            channels[data[0]] += data[1:]
    out, err = (channels[each].decode(errors="replace") for each in (_STDOUT, _STDERR))
    return Finished(_code(json.loads(channels[_RESULT]), host, request), out, err)


def _code(status: dict[str, Any], host: str, request: ApiRequest) -> int:
    if status.get("status") == "Success":
        return 0
    for cause in (status.get("details") or {}).get("causes") or ():
        if cause.get("reason") == "ExitCode":
            return int(cause["message"])
    raise ApiFailure(f"apiserver {host}: {request}: {' '.join(str(status.get('message')).split())}")
