"""One end of an AsyncSSH tunnel, in a folder of the stage: keys are files there, made by the server.

asyncssh_end.py server HOST PORT
asyncssh_end.py agent HOST PORT ENTRANCE-HOST ENTRANCE-PORT TARGET-HOST TARGET-PORT
"""

import asyncio
import os
import sys
from pathlib import Path

import asyncssh

HOST_KEY, USER_KEY = Path("host_key"), Path("user_key")
CIPHERS = ["aes128-gcm@openssh.com"]


class AllowsForwarding(asyncssh.SSHServer):
    """Any port that an authenticated agent asks for."""

    def server_requested(self, listen_host: str, listen_port: int) -> bool:
        """Forward as asked."""
        return True


async def serve(host: str, port: int) -> None:
    """The server end: listens for the agent, and then where the agent says."""
    os.umask(0o077)
    for path in (HOST_KEY, USER_KEY):
        key = asyncssh.generate_private_key("ssh-ed25519")
        key.write_private_key(path)
        key.write_public_key(f"{path}.pub")
    async with asyncssh.listen(
        host,
        port,
        server_factory=AllowsForwarding,
        server_host_keys=[HOST_KEY],
        authorized_client_keys=f"{USER_KEY}.pub",
        encryption_algs=CIPHERS,
        compression_algs=None,
    ) as listener:
        await listener.wait_closed()


async def forward(dial: tuple[str, int], entrance: tuple[str, int], target: tuple[str, int]) -> None:
    """The agent end: whoever connects to the entrance, which the server listens at, talks to the target."""
    async with asyncssh.connect(
        *dial,
        config=None,
        username="agent",
        known_hosts=([asyncssh.read_public_key(f"{HOST_KEY}.pub")], [], []),
        client_keys=[USER_KEY],
        agent_path=None,
        encryption_algs=CIPHERS,
        compression_algs=None,
    ) as connection:
        listener = await connection.forward_remote_port(*entrance, *target)
        await listener.wait_closed()


def main() -> None:
    """Run until ended; a failure is one line and status 1."""
    role, *words = sys.argv[1:]
    addresses = [(host, int(port)) for host, port in zip(words[::2], words[1::2], strict=True)]
    try:
        if role == "server":
            asyncio.run(serve(*addresses[0]))
        else:
            asyncio.run(forward(*addresses))
    except (OSError, asyncssh.Error) as error:
        sys.exit(f"asyncssh {role}: {error}")


if __name__ == "__main__":
    main()
