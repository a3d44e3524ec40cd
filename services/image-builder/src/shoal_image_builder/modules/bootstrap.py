"""mmdebstrap: packages from the network into a tar archive. It runs in mount and process namespaces of its own, so
that nothing of it is left, whatever becomes of it.
"""

import re
import textwrap
from collections.abc import Callable, Iterable
from pathlib import Path

from shoal_image_builder.modules.recipe import Accounts, Recipe
from shoal_image_builder.process import Cancel, output, run

_MERGED_USR = "/usr/share/mmdebstrap/hooks/merged-usr"
_STEPS = {
    "running apt-get update": "fetch package lists",
    "downloading packages": "download packages",
    "extracting archives": "unpack packages",
    "installing essential packages": "install the base",
    "installing remaining packages": "install packages",
    "creating tarball": "collect the tree",
}
_APT_OPTIONS = (
    'APT::Install-Recommends "false"',
    'Acquire::Check-Valid-Until "false"',  # a pinned snapshot is out of date by intent
    'Acquire::Check-Date "false"',
    'Acquire::Languages "none"',
)
_OWN_OPTIONS = re.compile(r'^(Acquire::(?:http|https)(?:::[^ ]*)? ".+");$', re.MULTILINE)


def bootstrap(
    recipe: Recipe, accounts: Accounts, *, sources: list[str], work: Path, cancel: Cancel, step: Callable[[str], None]
) -> Path:
    """Install (or, by the recipe's variant, unpack) the recipe's packages; the tree as a tar archive under `work`.

    `step` hears what is being done. Raises CommandFailed with mmdebstrap's reason.
    """
    out = work / "tree.tar"
    listed = [work / f"sources-{number}" for number in range(len(sources))]
    for file, text in zip(listed, sources, strict=True):
        file.write_text(text)
    argv = ["mmdebstrap", "--mode=unshare", f"--variant={recipe.variant}", "--format=tar"]
    argv += [f"--aptopt={option}" for option in (*_APT_OPTIONS, *_machine_options(cancel))]
    if recipe.variant == "apt":
        argv += [f"--dpkgopt=path-exclude={pattern}" for pattern in recipe.exclude]
        argv += [f"--dpkgopt=path-include={pattern}" for pattern in recipe.include]
        argv += [f"--hook-dir={_MERGED_USR}", f"--essential-hook={_seed_hook(work, recipe, accounts)}"]
    else:
        argv.append("--skip=cleanup/apt/cache")  # the packages stay in the tree, where their names tell their versions
    argv += [f"--include={','.join(recipe.packages)}", recipe.flavor, str(out), *map(str, listed)]
    env = {"SOURCE_DATE_EPOCH": str(recipe.epoch), "DEBIAN_FRONTEND": "noninteractive", "TMPDIR": str(work)}
    run(argv, cancel=cancel, env=env | recipe.environment, on_line=lambda line: _report(line, step))
    return out


def _report(line: str, step: Callable[[str], None]) -> None:
    for words, name in _STEPS.items():
        if line.startswith(f"I: {words}"):
            step(name)


def _machine_options(cancel: Cancel) -> Iterable[str]:
    """How this machine reaches its package sources: proxies, certificates and the like from its apt configuration."""
    return _OWN_OPTIONS.findall(output(["apt-config", "dump"], cancel=cancel).decode())


def _seed_hook(work: Path, recipe: Recipe, accounts: Accounts) -> Path:
    """A script that adds the recipe's accounts, with the registry's numbers, before any package can make them up."""
    users = {name: accounts.users[name] for name in recipe.users}
    groups = {name: accounts.groups[name] for name in recipe.groups}
    days = recipe.epoch // 86400
    lines = {
        "passwd": [f"{n}:x:{u.uid}:{u.gid}:{u.comment}:{u.home}:/usr/sbin/nologin" for n, u in users.items()],
        "shadow": [f"{name}:!:{days}::::::" for name in users],
        "group": [f"{name}:x:{group.gid}:" for name, group in groups.items()],
        "gshadow": [f"{name}:!::" for name in groups],
    }
    script = textwrap.dedent("""\
        #!/bin/sh
        set -eu
        """)
    for file, added in lines.items():
        script += f"cat >>\"$1/etc/{file}\" <<'END'\n" + "".join(f"{line}\n" for line in added) + "END\n"
    hook = work / "seed-accounts"
    hook.write_text(script)
    hook.chmod(0o755)
    return hook
