"""Judging what applying an object would do."""

from typing import Any

from tunnelctl.install.plan import Action, differences, step

WANTED: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": {"name": "c", "namespace": "n"},
    "data": {"file": "a = 1\nb = 2\n"},
}


def live(**changes: Any) -> dict[str, Any]:
    metadata = {**WANTED["metadata"], "uid": "1", "resourceVersion": "7", "managedFields": [{"manager": "x"}]}
    return {**WANTED, "metadata": metadata, **changes}


def test_an_object_that_is_not_there_is_made() -> None:
    made = step(WANTED, None, None)
    assert (made.action, made.changes, str(made)) == (Action.MAKE, (), "make ConfigMap n/c")


def test_what_only_the_apiserver_changes_is_no_change() -> None:
    before, after = live(), live(status={"x": 1})
    after["metadata"] = {**after["metadata"], "resourceVersion": "8", "managedFields": [], "generation": 2}
    assert step(WANTED, before, after).action is Action.KEEP


def test_changes_are_told_field_by_field() -> None:
    changed = step(WANTED, live(), live(data={"file": "a = 1\nb = 3\n"}, immutable=True))
    assert changed.action is Action.CHANGE
    assert changed.changes == (
        "data.file: - b = 2",
        "data.file: + b = 3",
        "immutable: nothing -> True",
    )


def test_lists_differ_by_item_or_whole() -> None:
    assert list(differences({"a": [1, 2]}, {"a": [1, 3]})) == ["a[1]: 2 -> 3"]
    assert list(differences([1], [1, 2], "a")) == ["a: [1] -> [1, 2]"]
    assert len(next(differences("x" * 500, "y", "a"))) < 150
