"""What schemathesis must know of this API beyond its description.

The formats are those of crates/http/src/openapi.json. The hook keeps names new: a name that is taken is answered with
500, as the system that Tidegate replaces does, and that one answer would hide any other server error.
"""

import base64
import itertools
import os

import schemathesis
from hypothesis import strategies as st

letters = st.text(st.sampled_from("abcdefghijklmnopqrstuvwxyzäß東 -_.@<&'\""), min_size=1, max_size=20).map(
    lambda text: "u" + text
)


def key(seed):
    blob = b"\x00\x00\x00\x0bssh-ed25519\x00\x00\x00\x20" + seed
    return "ssh-ed25519 " + base64.b64encode(blob).decode() + " a comment <b>"


networks = st.one_of(
    st.tuples(st.ip_addresses(v=4), st.integers(0, 32)), st.tuples(st.ip_addresses(v=6), st.integers(0, 128))
).map(lambda pair: f"{pair[0]}/{pair[1]}")

# Passwords in clear cost 64 MiB and some time each; a few are enough.
passwords = st.sampled_from(["secret", "ünï©ode " * 8, "$1$b5caebda$VODr/nyhGWgZaY8sJ4x05.", "$6$nobody$knows"])

schemathesis.openapi.format("username", letters)
schemathesis.openapi.format("home-dir", letters.map(lambda text: "/srv/" + text))
schemathesis.openapi.format("ssh-public-key", st.binary(min_size=32, max_size=32).map(key))
schemathesis.openapi.format("cidr", networks)
schemathesis.openapi.format("new-password", passwords)
schemathesis.openapi.format("backup-name", st.sampled_from(["users.json", "a/b/users.json", "ü <&>.json"]))
schemathesis.openapi.format("server-path", st.sampled_from([os.environ["TIDEGATE_DUMP"], "/nonexistent", "/"]))

number = itertools.count()


def without_point(value):
    """Numbers with a point are integers to the server up to 9e14 (crates/http/src/api/types.rs)."""
    if isinstance(value, float) and value.is_integer() and 9e14 < abs(value) < 2**63:
        return int(value)
    if isinstance(value, dict):
        return {key: without_point(part) for key, part in value.items()}
    return [without_point(part) for part in value] if isinstance(value, list) else value


@schemathesis.hook
def before_call(context, case, kwargs):
    body = case.body
    if isinstance(body, dict):
        body = case.body = without_point(body)
    if case.method == "POST" and case.path == "/api/v1/user" and isinstance(body, dict):
        name = body.get("username")
        if isinstance(name, str) and name:
            body["username"] = f"{name[:200]}{next(number)}"
