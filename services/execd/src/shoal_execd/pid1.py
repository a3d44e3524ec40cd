"""What the first process of a machine has to do itself: mounts of the kernel's file systems, console, shell, reboot."""

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from shoal_execd.journal import Journal
from shoal_execd.processes import BUSYBOX, environment
from shoal_execd.union import MS_NODEV, MS_NOEXEC, MS_NOSUID, mount

PAUSE = 600.0
"""Seconds before a node whose boot failed tries again from the beginning."""


def mount_kernel_file_systems() -> None:
    """Mount /proc, /sys, /dev and /run where they are not mounted yet. Raises MountFailed."""
    secure = MS_NOSUID | MS_NODEV | MS_NOEXEC
    for source, path, flags, options in (
        ("proc", "/proc", secure, ""),
        ("sysfs", "/sys", secure, ""),
        ("devtmpfs", "/dev", MS_NOSUID, "mode=0755"),
        ("tmpfs", "/run", MS_NOSUID | MS_NODEV, "mode=0755,size=20%"),
    ):
        if not os.path.ismount(path):
            mount(source, Path(path), source, flags=flags, options=options)


def open_console() -> None:
    """Make /dev/console the standard input, output and error: the kernel could not if it did not exist yet."""
    console = os.open("/dev/console", os.O_RDWR | os.O_NOCTTY)
    for descriptor in (0, 1, 2):
        os.dup2(console, descriptor)
    if console > 2:
        os.close(console)


def shell(journal: Journal, why: str) -> None:
    """Give the console to an operator until he leaves the shell."""
    journal.info(f"{why}: a shell on the console; `exit` goes on")
    subprocess.run([BUSYBOX, "setsid", "-c", BUSYBOX, "sh", "-l"], env=environment(), cwd="/", check=False)
    journal.info("the shell was left")


def give_up(journal: Journal, reason: str, announce: Callable[[], None], *, interactive: bool) -> NoReturn:
    """End a boot that failed: the reason, a shell if one was asked for, a pause, the machine anew.

    The head is told twice that it comes back (`announce`): now, for an operator who cannot wait, and before it does.
    """
    journal.info(f"THE BOOT FAILED: {reason}")
    announce()
    if interactive:
        shell(journal, "the boot failed")
    else:
        journal.info(f"this node tries again from the beginning in {PAUSE / 60:.0f} minutes; power-cycle it to try now")
        time.sleep(PAUSE)
    announce()
    journal.info("rebooting")
    subprocess.run([BUSYBOX, "reboot", "-f"], check=False)
    while True:  # the first process must not end
        time.sleep(PAUSE)
