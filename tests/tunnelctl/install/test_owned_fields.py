"""What one manager applied, as the apiserver recorded it."""

from typing import Any

from tunnelctl.install.owned_fields import bare, managers, owned_fields

LIVE: dict[str, Any] = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {
        "name": "server", "namespace": "here", "uid": "1",
        "labels": {"mine": "1", "theirs": "2"}, "finalizers": ["x/mine", "y/theirs"],
        "managedFields": [
            {"manager": "me", "operation": "Update", "fieldsV1": {"f:spec": {"f:replicas": {}}}},
            {"manager": "me", "operation": "Apply", "fieldsV1": {
                "f:metadata": {"f:labels": {"f:mine": {}}, "f:finalizers": {'v:"x/mine"': {}}},
                "f:spec": {
                    "f:paused": {}, "f:gone": {},
                    "f:template": {"f:spec": {"f:containers": {'k:{"name":"a"}': {
                        ".": {}, "f:name": {}, "f:image": {},
                        "f:ports": {'k:{"containerPort":80,"protocol":"TCP"}': {".": {}}},
                    }}}},
                },
                "f:order": {"i:1": {}},
                "f:empty": {".": {}},
            }},
            {"manager": "controller", "operation": "Update", "subresource": "status", "fieldsV1": {}},
        ],
    },
    "spec": {
        "replicas": 3, "paused": False,
        "template": {"spec": {"containers": [
            {"name": "b", "image": "theirs"},
            {"name": "a", "image": "mine", "tty": True,
             "ports": [{"containerPort": 80, "protocol": "TCP", "name": "p"}]},
        ]}},
    },
    "order": ["first", "second"],
    "empty": {"theirs": 1},
    "status": {"replicas": 3},
}  # fmt: skip


def test_only_what_the_manager_applied() -> None:
    container = {"name": "a", "image": "mine", "ports": [{"containerPort": 80, "protocol": "TCP"}]}
    assert owned_fields(LIVE, "me") == {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": "server",
            "namespace": "here",
            "labels": {"mine": "1"},
            "finalizers": ["x/mine"],
        },
        "spec": {"paused": False, "template": {"spec": {"containers": [container]}}},
        "order": ["second"],
        "empty": {},
    }


def test_who_applied_nothing() -> None:
    assert owned_fields(LIVE, "controller") is None
    assert owned_fields({**LIVE, "metadata": {"name": "x"}}, "me") is None


def test_nothing_but_the_name() -> None:
    assert bare(LIVE) == {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "server", "namespace": "here"},
    }


def test_writers_of_status_do_not_count() -> None:
    assert managers(LIVE) == {"me"}
