"""Builds of images and modules that are too long for every day."""

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lab.boots import BUILD, BootLab

pytestmark = pytest.mark.e2e

_BUILDER = Path(sys.executable).parent / "shoal-image-builder"
_MODULE = 1200.0


def test_a_build_whose_builder_is_killed_comes_back_and_completes(boots: BootLab) -> None:
    copied = boots.folder / "images/fresh/copy/etc/lab-copied"
    copied.parent.mkdir(parents=True)
    copied.write_bytes(os.urandom(64))  # so that nothing like it was ever built
    store = boots.folder / "store"
    before = set((store / "manifests").iterdir())
    boots.head.shoal("image", "add", "fresh", "flavor=bookworm", "version=1.0")
    wait_for(lambda: any(store.glob(".build-*/squashfs")), "the build did not begin", 120)
    boots.kill("shoal-image-builder")
    assert set((store / "manifests").iterdir()) == before, "the build was over before its builder was killed"
    # Nobody asks for it again: it is the queue that gives it to the builder that came back.
    wait_for(lambda: set((store / "manifests").iterdir()) != before, "the build did not come back", BUILD)
    [manifest] = set((store / "manifests").iterdir()) - before
    built = json.loads(manifest.read_text())
    blob = store / "blobs" / built["squashfs"]["sha256"]
    assert built["image"] == "fresh"
    assert hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name
    assert boots.build("fresh") == blob
    copied.write_bytes(os.urandom(64))
    assert boots.build("fresh") != blob
    assert list(store.glob(".build-*")) == [], "what the killed builder left is still there after the next build"


def wait_for(true: Callable[[], bool], complaint: str, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"{complaint} within {seconds:.0f} s"
        time.sleep(0.1)


def test_the_core_module_built_twice_is_the_same_to_the_last_bit(tmp_path: Path) -> None:
    digests = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        folder.mkdir()
        command = [str(_BUILDER), "build-module", "core", "--modules", str(folder)]
        built = subprocess.run(command, capture_output=True, text=True, timeout=_MODULE, check=False)
        assert built.returncode == 0, built.stderr
        [package] = folder.glob("shoal-module-core-*.deb")
        digests.append((package.name, hashlib.sha256(package.read_bytes()).hexdigest()))
    assert digests[0] == digests[1]
