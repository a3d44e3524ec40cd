"""The settings every service has, and how they are read: `SHOAL_*` variables, and over them flags of the same names."""

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_origin

from pydantic import AfterValidator, Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from shoal_bus.servers import checked
from shoal_model import ports
from shoal_model.subjects import Service

PREFIX = "SHOAL_"
_NO_PORT = "127.0.0.1:0"
"""Stands for the service's own port of `ports.METRICS`, which only `parse` knows."""
_HOST = re.compile(r"\[[0-9a-fA-F:.]+\]|[a-zA-Z0-9._-]*")


def host_port(text: str) -> tuple[str, int]:
    """The two halves of `127.0.0.1:9101`, `:9101` (every address) or `[::1]:9101`. ValueError for anything else."""
    host, colon, port = text.rpartition(":")
    if not colon or not _HOST.fullmatch(host) or not (port.isascii() and port.isdecimal()) or int(port) > 65535:
        raise ValueError(f"expected host:port, got {text!r}")
    return host.strip("[]") or "0.0.0.0", int(port)


def _checked_host_port(text: str) -> str:
    host_port(text)
    return text


HostPort = Annotated[str, AfterValidator(_checked_host_port)]
Server = Annotated[str, AfterValidator(checked)]


class ServiceSettings(BaseSettings):
    """What every service is told. A service adds its own fields; each is a variable and a flag by its name alone."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="ignore", env_ignore_empty=True, enable_decoding=False
    )

    nats: list[Server] = Field(["nats://127.0.0.1:4222"], min_length=1, description="NATS servers")
    metrics: HostPort = Field(_NO_PORT, description="where /metrics, /healthz and /readyz are served")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="what is logged, and above")
    log_json: bool = Field(False, description="log lines as JSON")
    state: Path = Field(Path("/var/lib/shoal"), description="directory of what is kept")
    key: Path | None = Field(None, description="file with the seed of this service's key on the bus")
    ca: Path | None = Field(None, description="the cluster's `ca.crt`: who may have certificates and sign images")

    @field_validator("*", mode="before")
    @classmethod
    def _list_from_commas(cls, value: object, info: ValidationInfo) -> object:
        field = cls.model_fields.get(info.field_name or "")
        if isinstance(value, str) and field is not None and get_origin(field.annotation) in (list, tuple, frozenset):
            return [part.strip() for part in value.split(",") if part.strip()]
        return value


class ListeningSettings(ServiceSettings):
    """What a service is told that nodes speak to directly. Its ports are those of `shoal_model.ports`."""

    listen: IPv4Address = Field(IPv4Address("0.0.0.0"), description="IPv4 address of this head that nodes speak to")
    tls_cert: Path | None = Field(None, description="certificate (PEM) of this head, for HTTP with TLS")
    tls_key: Path | None = Field(None, description="file with the certificate's key")


S = TypeVar("S", bound=ServiceSettings)


def parse(service: Service, settings: type[S], arguments: Sequence[str] | None = None) -> S:
    """The settings of a service from its flags and environment.

    What is wrong is told on stderr, one line for each, and ends the program with status 2; `--help` with 0.
    """
    parser = _parser(service, settings)
    given: dict[str, Any] = {
        name: value for name, value in vars(parser.parse_args(arguments)).items() if value is not None
    }
    try:
        return _with_own_port(service, settings, given)
    except ValidationError as error:
        for problem in error.errors(include_url=False, include_context=False):
            print(f"shoal-{service}: {_explain(problem)}", file=sys.stderr)  # noqa: T201
        raise SystemExit(2) from None


def _with_own_port(service: Service, settings: type[S], given: Mapping[str, Any]) -> S:
    parsed = settings(**given)
    if "metrics" in parsed.model_fields_set:
        return parsed
    return settings(**given, metrics=f"127.0.0.1:{ports.METRICS[service]}")


def _parser(service: Service, settings: type[ServiceSettings]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"shoal-{service}", description=settings.__doc__, allow_abbrev=False)
    for name, field in settings.model_fields.items():
        default = f"127.0.0.1:{ports.METRICS[service]}" if field.default == _NO_PORT else _shown(field.default)
        duty = "required" if field.is_required() else f"default: {default}"
        text = f"{field.description or name} ({PREFIX}{name.upper()}; {duty})"
        parser.add_argument(_flag(name), dest=name, metavar=name.upper(), help=text.replace("%", "%%"))
    return parser


def _shown(default: object) -> str:
    if isinstance(default, list | tuple):
        return ",".join(map(str, default)) or "none"
    return "none" if default is None else str(default)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _explain(problem: Mapping[str, Any]) -> str:
    name = str(problem["loc"][0]) if problem["loc"] else ""
    message = str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] == "missing":
        message = "is required"
    elif "got" not in message:
        message = f"{message}, got {str(problem['input'])!r}"
    where = f"{PREFIX}{name.upper()} ({_flag(name)})" if name else "settings"
    return f"{where}: {message}"
