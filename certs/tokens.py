"""Join tokens: what they are good for, how they are stored, and why one is refused.

A token is `ID.SECRET`: a short public id, by which people name it, and 256 random bits. Only a hash is
stored. It serves one node, once, within its life.

An answer can be lost on its way. So the certificate stays in the record, and whoever presents the same token
*and proves to hold the same key* within the token's life is given that certificate again; with any other key
the token is used.
"""

import hashlib
import json
import re
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from hmac import compare_digest

from certs.addresses import MAX_ADDRESSES, IPAddress, parse_address
from certs.files import StateError
from certs.identity import check_node_name
from certs.state import Change, State

TOKENS_FILE = "tokens.json"
MAX_TOKENS = 10_000
"""Records kept; those that are over make room first."""
MAX_LIFE = timedelta(days=365)
REMEMBERED = timedelta(days=30)
"""How long a token that is over is still told apart from one that never was."""

_FORM = re.compile(r"([0-9a-f]{8})\.[A-Za-z0-9_-]{43}")


class Refusal(StrEnum):
    """Why a token is refused; the value is the machine code in the join API's answer."""

    MALFORMED = "token-malformed"
    UNKNOWN = "token-unknown"
    EXPIRED = "token-expired"
    USED = "token-used"
    REVOKED = "token-revoked"
    WRONG_NODE = "token-wrong-node"


class TokenRefusedError(Exception):
    """The token does not serve; the message is one line for the person who pasted it."""

    def __init__(self, refusal: Refusal, message: str) -> None:
        super().__init__(message)
        self.refusal = refusal


class TokenState(StrEnum):
    """What has become of a token."""

    LIVE = "live"
    USED = "used"
    REVOKED = "revoked"
    EXPIRED = "expired"


@dataclass(frozen=True)
class TokenRecord:
    """What is stored of a token: never its secret."""

    id: str
    digest: str
    """SHA-256 of the whole token, in hexadecimal."""
    node: str
    addresses: tuple[IPAddress, ...]
    created: datetime
    expires: datetime
    used: datetime | None = None
    revoked: datetime | None = None
    key_digest: str = ""
    """SHA-256 of the public key it was used with."""
    certificate: str = ""
    """PEM, what it was used for."""

    def state(self, now: datetime) -> TokenState:
        """Return what has become of it by `now`."""
        if self.used is not None:
            return TokenState.USED
        if self.revoked is not None:
            return TokenState.REVOKED
        return TokenState.LIVE if now < self.expires else TokenState.EXPIRED

    def over(self, now: datetime) -> datetime | None:
        """Return since when it no longer serves, or None while it does."""
        return self.used or self.revoked or (None if now < self.expires else self.expires)


@dataclass(frozen=True)
class Issued:
    """What a token was exchanged for, and the files that must change together with it."""

    certificate: str
    files: Mapping[str, bytes]


def check_token_form(token: str) -> str:
    """Return the id of a well-formed token; raises TokenRefusedError (MALFORMED)."""
    found = _FORM.fullmatch(token)
    if found is None:
        raise TokenRefusedError(
            Refusal.MALFORMED, "the token is not whole: copy the join line again, all of it, on one line"
        )
    return found[1]


class TokenStore:
    """`tokens.json` of a server's state, shared with other processes. Blocks; raises StateError."""

    def __init__(self, state: State, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._state = state
        self._clock = clock
        self._read: tuple[object, dict[str, TokenRecord]] = (None, {})

    def create(self, node: str, addresses: Iterable[IPAddress], life: timedelta) -> tuple[str, TokenRecord]:
        """Return a new token and its record; raises ValueError for what no token can be made of.

        Whether an edge may hold the addresses is `certs.addresses.check_edge_address`'s to say.
        """
        check_node_name(node)
        held = tuple(dict.fromkeys(addresses))
        if len(held) > MAX_ADDRESSES:
            raise ValueError(f"{len(held)} addresses, more than the {MAX_ADDRESSES} a node may hold")
        if not timedelta(0) < life <= MAX_LIFE:
            raise ValueError(f"a token lives more than 0 seconds and at most {MAX_LIFE.days} days")
        now = self._clock().replace(microsecond=0)

        def add(change: Change) -> tuple[str, TokenRecord]:
            records = self._load()
            _make_room(records, now)
            token_id = secrets.token_hex(4)
            while token_id in records:
                token_id = secrets.token_hex(4)
            token = f"{token_id}.{secrets.token_urlsafe(32)}"
            record = TokenRecord(token_id, _digest(token), node, held, now, now + life)
            change.write({TOKENS_FILE: _document({**records, token_id: record})})
            return token, record

        return self._state.change(add)

    def find(self, token: str, node: str | None = None) -> TokenRecord:
        """Return the token's record, live or used, or raise TokenRefusedError saying why it does not serve.

        Changes nothing and takes no lock, so that guesses are cheap to refuse. A used token's record is
        returned only within its life, for `redeem` to tell a repeat from a second use.
        """
        token_id = check_token_form(token)
        return self._judge(token, node, self._glance().get(token_id))

    def _judge(self, token: str, node: str | None, record: TokenRecord | None) -> TokenRecord:
        # An unknown id and a wrong secret are one case: an id is no secret, and must not become a probe.
        if not compare_digest(_digest(token), record.digest if record else _digest("")) or record is None:
            raise TokenRefusedError(
                Refusal.UNKNOWN,
                "this server does not know the token: it was made elsewhere or long ago; "
                "make a new one with `tunnelctl token create`",
            )
        now = self._clock()
        again = "make a new one with `tunnelctl token create`"
        if record.revoked is not None:
            raise TokenRefusedError(
                Refusal.REVOKED, f"the token was revoked at {_when(record.revoked)}: {again}"
            )
        if record.used is not None and now >= record.expires:
            raise _used(record)
        if now >= record.expires:
            raise TokenRefusedError(Refusal.EXPIRED, f"the token expired at {_when(record.expires)}: {again}")
        if node is not None and node != record.node:
            raise TokenRefusedError(
                Refusal.WRONG_NODE,
                f"the token is for node {record.node}, not for {node}: use the join line made for {node}",
            )
        return record

    def redeem(
        self,
        token: str,
        node: str | None,
        key_digest: str,
        issue: Callable[[TokenRecord], Issued],
        missing: Callable[[TokenRecord], Mapping[str, bytes]] = lambda _record: {},
    ) -> TokenRecord:
        """Exchange the token for what `issue` makes, once; return its record with the certificate.

        The token is used up in the same change that writes `Issued.files`: whatever `issue` raises, or
        a failing disk, leaves the token as it was. A place that cannot do that in one writes the token first;
        `missing` returns the files that are still to be written when the same key asks again. Raises
        TokenRefusedError.
        """
        self.find(token, node)

        def use(change: Change) -> TokenRecord:
            records = self._load()
            record = self._judge(token, node, records.get(check_token_form(token)))
            if record.used is not None:
                if not compare_digest(record.key_digest, key_digest):
                    raise _used(record)
                if files := missing(record):
                    change.write(files)
                return record
            issued = issue(record)
            used = replace(
                record,
                used=self._clock().replace(microsecond=0),
                key_digest=key_digest,
                certificate=issued.certificate,
            )
            change.write({TOKENS_FILE: _document({**records, record.id: used}), **issued.files})
            return used

        return self._state.change(use)

    def list(self) -> list[TokenRecord]:
        """Return all that are remembered, the oldest first."""
        return sorted(self._load().values(), key=lambda record: (record.created, record.id))

    def revoke(self, token_id: str) -> TokenRecord:
        """Make a live token useless and return its record; raises KeyError; ValueError if it is not live."""
        now = self._clock().replace(microsecond=0)

        def make_useless(change: Change) -> TokenRecord:
            records = self._load()
            record = records[token_id]
            state = record.state(now)
            if state is not TokenState.LIVE:
                raise ValueError(f"token {token_id} (node {record.node}) is already {state.value}")
            revoked = replace(record, revoked=now)
            change.write({TOKENS_FILE: _document({**records, token_id: revoked})})
            return revoked

        return self._state.change(make_useless)

    def without_node(self, node: str) -> dict[str, bytes]:
        """Return the file as it is with the node's live tokens revoked, for a change that is open.

        Empty where nothing changes.
        """
        now = self._clock().replace(microsecond=0)
        records = self._load()
        changed = {
            record.id: replace(record, revoked=now)
            for record in records.values()
            if record.node == node and record.state(now) is TokenState.LIVE
        }
        return {TOKENS_FILE: _document({**records, **changed})} if changed else {}

    def _glance(self) -> dict[str, TokenRecord]:
        # Parsing thousands of records for each guess would be work for the asking. Good enough for a first
        # look only: a clock's tick can hide a change, so what decides reads the file itself.
        version = self._state.version(TOKENS_FILE)
        if self._read[0] != version:
            self._read = (version, self._load())
        return self._read[1]

    def _load(self) -> dict[str, TokenRecord]:
        if not self._state.exists(TOKENS_FILE):
            return {}
        try:
            document = json.loads(self._state.read_secret(TOKENS_FILE))
            records = [_decode(entry) for entry in document["tokens"]]
        except (ValueError, KeyError, TypeError) as error:
            raise StateError(
                f"{self._state.place(TOKENS_FILE)} is damaged ({error}): restore it from a backup, "
                "or remove it; tokens that are not used yet must then be made again"
            ) from None
        return {record.id: record for record in records}


def _document(records: Mapping[str, TokenRecord]) -> bytes:
    document = {"version": 1, "tokens": [_encode(record) for record in records.values()]}
    return json.dumps(document, indent=1).encode() + b"\n"


def _make_room(records: dict[str, TokenRecord], now: datetime) -> None:
    ended = sorted((since, record.id) for record in records.values() if (since := record.over(now)))
    for since, token_id in ended:
        if now - since > REMEMBERED or len(records) >= MAX_TOKENS:
            del records[token_id]
    if len(records) >= MAX_TOKENS:
        raise ValueError(f"there are {MAX_TOKENS} unused tokens: revoke some with `tunnelctl token revoke`")


def _used(record: TokenRecord) -> TokenRefusedError:
    assert record.used is not None
    return TokenRefusedError(
        Refusal.USED,
        f"the token was used at {_when(record.used)} by node {record.node}, and a token serves once: "
        "make a new one with `tunnelctl token create`",
    )


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _when(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _encode(record: TokenRecord) -> dict[str, object]:
    return {
        "id": record.id,
        "digest": record.digest,
        "node": record.node,
        "addresses": [str(address) for address in record.addresses],
        "created": record.created.isoformat(),
        "expires": record.expires.isoformat(),
        "used": record.used and record.used.isoformat(),
        "revoked": record.revoked and record.revoked.isoformat(),
        "key_digest": record.key_digest,
        "certificate": record.certificate,
    }


def _decode(entry: Mapping[str, object]) -> TokenRecord:
    addresses = entry["addresses"]
    if not isinstance(addresses, list):
        raise TypeError("addresses")
    return TokenRecord(
        id=str(entry["id"]),
        digest=str(entry["digest"]),
        node=str(entry["node"]),
        addresses=tuple(map(parse_address, addresses)),
        created=datetime.fromisoformat(str(entry["created"])),
        expires=datetime.fromisoformat(str(entry["expires"])),
        used=datetime.fromisoformat(str(entry["used"])) if entry["used"] else None,
        revoked=datetime.fromisoformat(str(entry["revoked"])) if entry["revoked"] else None,
        key_digest=str(entry["key_digest"]),
        certificate=str(entry["certificate"]),
    )
