"""One way for every request: what is cut, silent or busy is a failure in one line, and tried again."""

import http.server
import threading
from collections.abc import Callable, Iterator
from typing import ClassVar

import pytest
from kubernetes.client import ApiClient, Configuration

from tunnel_server.kube import connection
from tunnel_server.kube.apiserver import namespaced_kinds
from tunnel_server.kube.client import Cluster
from tunnel_server.kube.failures import ApiFailure
from tunnel_server.kube.references import ObjectReference
from tunnel_server.kube.resources import CONFIG_MAPS

OBJECT = b'{"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "c"}}'
CUT = (200, len(OBJECT) + 10, OBJECT)
BUSY = (503, 2, b"{}")
WELL = (200, len(OBJECT), OBJECT)
GONE = (404, 2, b"{}")
Answer = tuple[int, int, bytes]


class Apiserver(http.server.BaseHTTPRequestHandler):
    """Gives the answers of a list, or of a path, and then hangs up."""

    answers: ClassVar[list[Answer]] = []
    pages: ClassVar[dict[str, bytes]] = {}
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.rfile.read(int(self.headers.get("content-length", 0)))
        page = self.pages.get(self.path)
        status, length, body = self.answers.pop(0) if page is None else (200, len(page), page)
        self.send_response(status)
        self.send_header("content-length", str(length))
        self.end_headers()
        self.wfile.write(body)

    def do_PATCH(self) -> None:
        self.do_GET()

    def do_DELETE(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(connection, "_PAUSES", (0.01, 0.01))
    Apiserver.answers, Apiserver.pages, Apiserver.asked = [], {}, []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Apiserver) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def cluster(host: str, patience: float = 0.0) -> Cluster:
    configuration = Configuration(host=host)
    configuration.retries = False
    return Cluster(lambda: ApiClient(configuration), timeout=5, patience=patience)


REFERENCE = ObjectReference(CONFIG_MAPS, "c", "n")


@pytest.mark.parametrize(
    "ask",
    [
        lambda asked: asked.find(REFERENCE),
        lambda asked: asked.apply(CONFIG_MAPS, "c", {}, "n"),
        lambda asked: asked.remove(REFERENCE),
    ],
)
def test_a_body_that_is_cut_is_a_failure_of_every_verb(host: str, ask: Callable[[Cluster], object]) -> None:
    Apiserver.answers = [CUT]
    asked = cluster(host)
    with pytest.raises(ApiFailure, match=r"configmaps c in n: the connection was cut") as raised:
        ask(asked)
    assert not raised.value.lasting
    asked.close()


def test_it_is_asked_again_while_there_is_patience(host: str) -> None:
    Apiserver.answers = [CUT, BUSY, WELL]
    patient = cluster(host, patience=5)
    assert patient.get(CONFIG_MAPS, "c", "n")["metadata"] == {"name": "c"}
    assert len(Apiserver.asked) == 3
    Apiserver.answers = [BUSY]
    with pytest.raises(ApiFailure, match="503"):
        cluster(host).get(CONFIG_MAPS, "c", "n")


def test_what_would_fail_again_is_not_asked_again(host: str) -> None:
    Apiserver.answers = [GONE]
    assert cluster(host, patience=5).find(REFERENCE) is None
    assert len(Apiserver.asked) == 1


def test_all_kinds_that_can_be_in_a_namespace(host: str) -> None:
    verbs = b'"verbs": ["create", "delete", "list"]'
    Apiserver.pages = {
        "/apis": b'{"groups": [{"versions": [{"groupVersion": "shop/v2"}, {"groupVersion": "shop/v1"}]},'
        b' {"versions": [{"groupVersion": "down/v1"}]}]}',
        "/api/v1": b'{"resources": [{"name": "pods", "kind": "Pod", "namespaced": true, %b},'
        b' {"name": "nodes", "kind": "Node", "namespaced": false, %b},'
        b' {"name": "bindings", "kind": "Binding", "namespaced": true, "verbs": ["create"]}]}'
        % (verbs, verbs),
        "/apis/shop/v1": b'{"resources": [{"name": "tills", "kind": "Till", "namespaced": true, %b}]}'
        % verbs,
        "/apis/shop/v2": b'{"resources": [{"name": "carts", "kind": "Cart", "namespaced": true, %b}]}'
        % verbs,
    }
    Apiserver.answers = [BUSY]
    kinds = {
        group: found and [str(each) for each in found] for group, found in namespaced_kinds(cluster(host))
    }
    assert kinds == {"v1": ["pods"], "shop/v2": ["carts.shop"], "shop/v1": ["tills.shop"], "down/v1": None}
