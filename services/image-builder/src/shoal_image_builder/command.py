"""The verbs that run once: `build-module` and `build-runtime`. They alone need the network, and root."""

import argparse
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import structlog

from shoal_image_builder.layers.entry import LayerError
from shoal_image_builder.modules.build import Step, build_module, up_to_date
from shoal_image_builder.modules.recipe import RecipeError, known
from shoal_image_builder.modules.runtime import build_runtime
from shoal_image_builder.modules.shelf import Module
from shoal_image_builder.modules.sources import SourcesError
from shoal_image_builder.process import Cancel, CommandFailed

VERBS = ("build-module", "build-runtime")
_FAILURES = (RecipeError, SourcesError, CommandFailed, LayerError, OSError)


def main(arguments: Sequence[str]) -> int:
    """Carry a verb out, a line on stdout for each step with the seconds since the start; the exit status."""
    asked = _parser().parse_args(arguments)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    if os.geteuid() != 0:
        return _fail("run this as root: packages run scripts of their own while they are installed")
    signal.signal(signal.SIGTERM, _interrupt)
    began = time.monotonic()

    def step(what: str) -> None:
        _say(f"{time.monotonic() - began:6.1f} s  {what}")

    try:
        if asked.if_changed and (there := up_to_date(_recipe(asked), asked.modules)):
            step(f"up to date: {there.package}")
            return 0
        module = _build(asked, step)
    except _FAILURES as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        return _fail("stopped; nothing was left behind", status=130)
    step(f"done: {module.package} ({module.packages} packages, layer {module.size / 1e6:.1f} MB {module.sha256[:16]})")
    return 0


def _recipe(asked: argparse.Namespace) -> str:
    return "runtime" if asked.verb == "build-runtime" else str(asked.name)


def _build(asked: argparse.Namespace, step: Step) -> Module:
    if asked.verb == "build-runtime":
        return build_runtime(asked.modules, cancel=Cancel(), step=step)
    return build_module(asked.name, asked.modules, cancel=Cancel(), step=step)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="shoal-image-builder", allow_abbrev=False)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb, text in (
        ("build-module", "build an image module from its recipe"),
        ("build-runtime", "build the Python that nodes bring along"),
    ):
        one = verbs.add_parser(verb, help=text, description=text, allow_abbrev=False)
        if verb == "build-module":
            one.add_argument("name", choices=known(), help="the module")
        one.add_argument("--modules", type=Path, required=True, metavar="DIR", help="where the package goes")
        one.add_argument("--if-changed", action="store_true", help="do nothing if recipe and builder are as they were")
    return parser


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _fail(reason: str, *, status: int = 1) -> int:
    sys.stderr.write(f"shoal-image-builder: {reason}\n")
    return status
