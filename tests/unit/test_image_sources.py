"""Package sources: the machine's own, those of the wanted release."""

from pathlib import Path

import pytest

from shoal_image_builder.modules.sources import SourcesError, sources_for

_DEBIAN = """\
Types: deb
# a comment between fields
URIs: http://archive.example/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
"""
_LINE = "deb [signed-by=/k.gpg arch=amd64] http://archive.example/debian bookworm main\n"


def _apt(folder: Path, **files: str) -> Path:
    (folder / "sources.list.d").mkdir()
    for name, text in files.items():
        place = folder / "sources.list" if name == "main" else folder / "sources.list.d" / name.replace("_", ".")
        place.write_text(text)
    return folder


def test_stanzas_and_lines_are_kept_apart(tmp_path: Path) -> None:
    texts = sources_for("bookworm", _apt(tmp_path, main=_LINE, debian_sources=_DEBIAN))
    assert texts == [_LINE, _DEBIAN.replace("# a comment between fields\n", "")]


@pytest.mark.parametrize(
    "text",
    [
        "Types: deb\nURIs: http://x\nSuites: trixie\nComponents: main\n",
        "Types: deb\nURIs: http://x\nSuites: bookworm-pgdg\nComponents: main\n",
        "Types: deb-src\nURIs: http://x\nSuites: bookworm\nComponents: main\n",
        "Enabled: no\nTypes: deb\nURIs: http://x\nSuites: bookworm\nComponents: main\n",
        "",
    ],
)
def test_stanzas_of_others_are_left_out(tmp_path: Path, text: str) -> None:
    apt = _apt(tmp_path, other_sources=text, debian_sources=_DEBIAN)
    assert sources_for("bookworm", apt) == [_DEBIAN.replace("# a comment between fields\n", "")]


@pytest.mark.parametrize(
    "line",
    [
        "deb http://x trixie main",
        "deb-src http://x bookworm main",
        "# deb http://x bookworm main",
        "deb [arch=amd64 http://x bookworm main",
        "deb",
        "deb http://x",
    ],
)
def test_lines_of_others_are_left_out(tmp_path: Path, line: str) -> None:
    assert sources_for("bookworm", _apt(tmp_path, main=f"{line}\n{_LINE}")) == [_LINE]


def test_a_machine_without_the_release_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(SourcesError, match="names no package source for trixie"):
        sources_for("trixie", _apt(tmp_path, main=_LINE, debian_sources=_DEBIAN))
    with pytest.raises(SourcesError, match="add the distribution's archive"):
        sources_for("bookworm", tmp_path / "missing")
