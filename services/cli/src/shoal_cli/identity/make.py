"""Make what a head's identity lacks, and keep what is there: also what an operator put there, such as an own CA."""

import shutil
from datetime import datetime

from shoal_bus import secrecy
from shoal_cli.identity import ca, files
from shoal_cli.identity.doors import Doors
from shoal_cli.identity.layout import IMAGE, NATS, PAIRS, SEEDS, Identity, Layout, Seed
from shoal_cli.up.plan import CannotStart
from shoal_identity import trust
from shoal_identity.keys import Key, KeyProblem, Role
from shoal_identity.trust import BadTrust, Trust
from shoal_model.permissions import PRINCIPALS

_PUBLIC, _SECRET, _OWN_FOLDER, _THROUGH = 0o644, 0o600, 0o700, 0o711


def prepare(layout: Layout, address: str, host: str, now: datetime) -> Identity:
    """The identity of the head at this address, whole. A start that was cut short is completed by the next one.

    Raises CannotStart where something that is there cannot be used: nothing of it is replaced.
    """
    try:
        for folder, mode in ((layout.keys, _THROUGH), *((layout.keys / owner, _OWN_FOLDER) for owner in _owners())):
            files.folder(folder, mode)
        _require_secret(layout)
        chain, authority = _ca(layout, now)
        keys = {seed: _key(layout, seed) for seed in SEEDS}
        public = {seed: key.public for seed, key in keys.items()}
        trusted = _trust(layout, "".join(ca.pem(certificate) for certificate in chain), public[IMAGE])
        doors = Doors(layout, authority, trusted, address, host)
        for pair in PAIRS:
            doors.certify(pair, now)
    except OSError as error:
        raise CannotStart(f"cannot keep this head's keys: {error.strerror} ({error.filename})") from error
    users = {principal: keys[Seed(principal, "bus")] for principal in PRINCIPALS}
    return Identity(layout, public, secrecy.write_secrets(users))


def _owners() -> tuple[str, ...]:
    return (*PRINCIPALS, NATS)


def _require_secret(layout: Layout) -> None:
    exposed = files.exposed(layout.secrets())
    if exposed:
        told = " ".join(map(str, exposed))
        raise CannotStart(
            f"others than their owner may read or change keys of this head: `chmod 600 {told}`. Whoever has read one "
            "can use it; a key that is removed is made anew at the next start"
        )


def _key(layout: Layout, seed: Seed) -> Key:
    """A key, made if it is missing."""
    path = layout.seed(seed)
    if not path.exists():
        files.place(path, f"{Key.new(seed.role).seed}\n".encode(), _SECRET)
    try:
        key = Key.read(path)
    except KeyProblem as error:
        raise CannotStart(f"{error}. Bring it back from a copy, or remove it: a new one is made") from error
    if key.public[0] != ("A" if seed.role is Role.ACCOUNT else "U"):
        raise CannotStart(f"{path} is the key of another role ({key.public[:4]}…). Remove it: a new one is made")
    return key


def _ca(layout: Layout, now: datetime) -> tuple[ca.Chain, ca.Authority | None]:
    """The CA; None where its key is kept elsewhere, and certificates are brought by hand."""
    certificate, key = layout.ca / "ca.pem", layout.ca / "ca.key"
    if not certificate.exists() and not key.exists():
        if layout.trust.exists():
            raise CannotStart(
                f"{certificate} is gone, and nodes trust the CA in {layout.trust}: bring it back with its ca.key. To "
                f"begin with another CA remove {layout.trust} too; then nodes that run must boot again"
            )
        _make_ca(layout, now)
    files.folder(layout.ca, _OWN_FOLDER)
    if not certificate.exists():
        raise CannotStart(f"{key} is there without its certificate: put the CA's into {certificate}")
    try:
        if not key.exists():
            return ca.read_chain(certificate.read_bytes(), now), None
        authority = ca.authority(certificate.read_bytes(), key.read_bytes(), now)
        return authority.chain, authority
    except ca.BadCa as error:
        raise CannotStart(f"{layout.ca}: {error}") from error


def _make_ca(layout: Layout, now: datetime) -> None:
    """Both files in one step: neither is of use alone."""
    new = layout.keys / ".ca.new"
    shutil.rmtree(new, ignore_errors=True)  # of a start that was cut short
    files.folder(new, _OWN_FOLDER)
    certificate, key = ca.new_authority(now)
    files.place(new / "ca.pem", certificate, _PUBLIC)
    files.place(new / "ca.key", key, _SECRET)
    new.rename(layout.ca)
    files.sync(layout.keys)


def _trust(layout: Layout, certificates: str, image_key: str) -> Trust:
    """`ca.crt`: image keys which are there already stay, those of other heads and of former days."""
    try:
        there = trust.parse(layout.trust.read_bytes())
    except FileNotFoundError:
        there = None
    except BadTrust as error:
        raise CannotStart(
            f"{layout.trust}: {error}. Bring it back from a copy, or remove it: a new one is made, without the image "
            "keys that you added"
        ) from error
    known = there.image_keys if there is not None else ()
    wanted = Trust(certificates, known if image_key in known else (image_key, *known))
    if wanted != there:
        files.place(layout.trust, wanted.dump(), _PUBLIC)
    return wanted
