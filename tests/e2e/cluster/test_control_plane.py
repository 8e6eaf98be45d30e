"""The control plane of these tests is a real one, and goes as it should."""

import json
import subprocess

import pytest
from kubernetes import client

from tests.e2e.cluster.control_plane import ControlPlane


def test_a_token_of_a_service_account_is_reviewed(apiserver: ControlPlane, namespace: str) -> None:
    token = apiserver.token(namespace, "default", audience="tunnel")
    reviews = client.AuthenticationV1Api(apiserver.client())
    spec = client.V1TokenReviewSpec(token=token, audiences=["tunnel"])
    status = reviews.create_token_review(body=client.V1TokenReview(spec=spec)).status
    assert status.authenticated
    assert status.audiences == ["tunnel"]
    assert status.user.username == f"system:serviceaccount:{namespace}:default"


def test_who_was_given_nothing_may_nothing(apiserver: ControlPlane, namespace: str) -> None:
    for one in (
        apiserver.as_service_account(namespace, "default"),
        apiserver.as_user("nobody-in-particular"),
    ):
        refused = apiserver.try_kubectl("get", "nodes", kubeconfig=one)
        assert "forbidden" in refused.stderr.lower()


def test_a_restarted_api_knows_what_it_knew_and_answers_an_old_watch_410(own_apiserver: ControlPlane) -> None:
    listed = json.loads(own_apiserver.kubectl("get", "--raw", "/api/v1/namespaces"))
    own_apiserver.namespace("kept")
    own_apiserver.restart_api()
    assert own_apiserver.kubectl("get", "namespace", "kept", "-o", "name").strip() == "namespace/kept"
    version = listed["metadata"]["resourceVersion"]
    watch = f"/api/v1/namespaces?watch=1&timeoutSeconds=1&resourceVersion={version}"
    assert json.loads(own_apiserver.kubectl("get", "--raw", watch))["object"]["code"] == 410


def test_a_frozen_api_answers_nobody_until_it_thaws(own_apiserver: ControlPlane) -> None:
    with own_apiserver.frozen(), pytest.raises(subprocess.TimeoutExpired):
        own_apiserver.try_kubectl("version", timeout=1)
    assert own_apiserver.kubectl("get", "--raw", "/readyz") == "ok"
