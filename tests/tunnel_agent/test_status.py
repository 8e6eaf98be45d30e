from tunnel_agent.status import AgentStatus


def test_a_link_comes_and_goes():
    status = AgentStatus("1")
    assert status.linked_since is None
    status.linked("tunnel.example:10262")
    assert status.linked_since is not None
    assert status.linked_since >= status.started
    assert (status.server, status.links) == ("tunnel.example:10262", 1)
    status.unlinked()
    assert (status.server, status.linked_since, status.links) == ("", None, 1)


def test_failures_are_remembered_over_links():
    status = AgentStatus("1")
    status.failed("refused")
    status.linked("tunnel.example:10262")
    assert status.last_failure == "refused"
    assert status.last_failure_at is not None
