"""`tunnelctl ca roll`, as the command line calls them."""

import json


def test_a_roll_is_guided(local_tunnelctl):
    assert "no roll is on; `tunnelctl ca roll start`" in local_tunnelctl("ca", "roll", "status")
    assert "no roll is on" in local_tunnelctl("ca", "roll", "switch", code=4)
    before = json.loads(local_tunnelctl("ca", "roll", "status", "--json"))
    assert "next: tunnelctl ca roll switch" in local_tunnelctl("ca", "roll", "start")
    local_tunnelctl("token", "create", "--node", "edge-1")
    assert "(node edge-1): its join line stops working" in local_tunnelctl("ca", "roll", "status")
    assert "next: tunnelctl ca roll finish" in local_tunnelctl("ca", "roll", "switch")
    assert "no roll is on" in local_tunnelctl("ca", "roll", "finish")
    after = json.loads(local_tunnelctl("ca", "roll", "status", "--json"))
    assert after["phase"] == "none"
    assert after["issuing"] != before["issuing"]
