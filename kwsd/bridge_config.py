"""The sections of the configuration that bridges have, and what all sections are made of."""

from __future__ import annotations

import re
import socket
from typing import TYPE_CHECKING, Annotated

from msgspec import Meta, Struct

if TYPE_CHECKING:
    import ipaddress

Text = Annotated[str, Meta(pattern=r"\S")]
"""Text that is not blank: a blank path or name is no default, and a blank device is every one."""

OFF = "off"
"""What turns off a key that is text otherwise."""


class Section(Struct, frozen=True, forbid_unknown_fields=True):
    """A part of the configuration."""


class MqttConfig(Section, frozen=True):
    """The bridge to an MQTT broker, `kwsd mqtt`, where it runs."""

    host: Text = "localhost"
    """The broker's name or address."""
    port: Annotated[int, Meta(ge=1, le=65535)] | None = None
    """Its port; null is 1883, or 8883 with TLS."""
    username: Text | None = None
    """Whom the broker knows this device as; null for a broker that asks nobody."""
    password_file: Text | None = None
    """File with the password and nothing else, which the bridge's user can read."""
    tls: bool = False
    """Whether the connection is encrypted, and the broker's certificate checked."""
    ca_file: Text | None = None
    """Certificates (PEM) that the broker's must come from; null is the system's."""
    certificate_file: Text | None = None
    """A certificate of this device (PEM, with its key), for a broker that asks for one."""
    topic: Text = "kwsd"
    """What every topic begins with, the same for all rooms."""
    name: Text | None = None
    """The name of this device, such as its room; null is the machine's. No two have the same."""
    discovery: Text = "homeassistant"
    """What topics of Home Assistant's discovery begin with; `off` for no discovery."""
    arbitrate_s: Annotated[float, Meta(ge=0.05, le=2)] | None = None
    """Seconds for which rooms that hear one utterance wait for each other, so that the one with the
    best signal answers alone; null: each answers at once."""

    def __post_init__(self) -> None:
        """Raise ValueError for what cannot be a topic, and for keys that need others."""
        for key in ("topic", "discovery"):
            text = getattr(self, key)
            if text and not re.fullmatch(r"[^\s+#$/]+(/[^\s+#$/]+)*", text):
                why = f"{key}: {text!r} cannot begin a topic; write names with / between them"
                raise ValueError(f"{why}, without spaces, + and #")
        if self.name and not (len(self.name) <= 64 and self.name.isprintable()):
            raise ValueError(f"name: {self.name!r} is no name: at most 64 characters to print")
        if self.password_file and not self.username:
            raise ValueError("password_file: needs username as well")
        for key in ("ca_file", "certificate_file"):
            if getattr(self, key) and not self.tls:
                raise ValueError(f"{key}: needs tls: on as well")

    @property
    def broker_port(self) -> int:
        """The port, by default that of its kind."""
        return self.port or (8883 if self.tls else 1883)

    @property
    def device_name(self) -> str:
        """The name of this device."""
        return self.name or socket.gethostname()

    @staticmethod
    def is_plain(name: str) -> bool:
        """Return whether a name can be a level of a topic as it is."""
        return re.fullmatch(r"[A-Za-z0-9_-]{1,63}", name) is not None


class MetricsConfig(Section, frozen=True):
    """The figures for Prometheus, `kwsd metrics`, where it runs."""

    listen: Text = "127.0.0.1:10712"
    """Where it answers: an address of this machine, and a port; `off` for nowhere."""
    textfile: Text | None = None
    """File (`*.prom`) that is written again and again, for the textfile collector of node_exporter;
    null for none."""
    interval_s: Annotated[float, Meta(ge=1, le=3600)] = 15.0
    """Seconds between two writes of the file."""

    def __post_init__(self) -> None:
        """Raise ValueError for an address that cannot be, and where there is nothing to do."""
        self.address()
        if self.textfile and not self.textfile.endswith(".prom"):
            text = f"textfile: {self.textfile!r} does not end with .prom, so nothing would read it"
            raise ValueError(text)
        if self.listen == OFF and not self.textfile:
            raise ValueError("listen: off leaves nothing to do without textfile")

    def address(self) -> tuple[str, int] | None:
        """Return host and port, or None."""
        if self.listen == OFF:
            return None
        found = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+):([0-9]{1,5})", self.listen)
        if not found or not 0 < int(found[2]) < 1 << 16:
            text = f"listen: {self.listen!r} is not ADDRESS:PORT, as 127.0.0.1:10712 is"
            raise ValueError(text)
        return found[1].strip("[]"), int(found[2])


class WebConfig(Section, frozen=True):
    """The page, `kwsd web`, where it runs."""

    listen: Text = "127.0.0.1:10480"
    """Address and port on which it listens; `[::]:10480` is every address. Another one than
    localhost needs `tls_cert` and `tls_key`, or `insecure`."""
    names: list[Text] = []
    """Names by which browsers may reach it, beside localhost and addresses, such as
    `kitchen.local`."""
    tls_cert: Text | None = None
    """File of the certificate, with those that it rests on (PEM)."""
    tls_key: Text | None = None
    """File of its private key (PEM)."""
    insecure: bool = False
    """Listen on another address without TLS: whoever is in the network can read along."""
    session_h: Annotated[float, Meta(ge=0.1, le=168)] = 12.0
    """Hours without use after which a session ends; all end after a week."""

    def __post_init__(self) -> None:
        """Raise ValueError for what cannot be, or would send sessions in the clear."""
        self.address()
        if (self.tls_cert is None) != (self.tls_key is None):
            have, need = ("tls_key", "tls_cert") if self.tls_key else ("tls_cert", "tls_key")
            raise ValueError(f"{have} is set, and {need} is not; TLS needs both")
        if not (self.is_loopback() or self.tls_cert or self.insecure):
            why = f"listen: {self.listen} is for other machines too, and needs TLS"
            fix = "set tls_cert and tls_key, or insecure: true where you trust the whole network"
            raise ValueError(f"{why}; {fix}")

    def address(self) -> tuple[str, int]:
        """Return the address and the port to listen on; port 0 is any that is free."""
        import ipaddress

        found = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[0-9.]+|localhost):([0-9]{1,5})", self.listen)
        host = found[1].strip("[]").replace("localhost", "127.0.0.1") if found else ""
        try:
            ipaddress.ip_address(host)
        except ValueError:
            found = None
        if not found or int(found[2]) >= 1 << 16:
            text = f"listen: {self.listen!r} is not ADDRESS:PORT, as 127.0.0.1:10480 is"
            raise ValueError(text)
        return host, int(found[2])

    def is_loopback(self) -> bool:
        """Return whether this machine alone can connect."""
        import ipaddress

        return ipaddress.ip_address(self.address()[0]).is_loopback


class _Port(Section, frozen=True):
    """What two services of the network share: where they listen, and who may connect."""

    uri: Text
    allow: list[Text] | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for a URI or an address that cannot be."""
        self.address()
        self._networks()

    def address(self) -> tuple[str, int]:
        """Return host and port of the URI."""
        found = re.fullmatch(r"tcp://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+):([0-9]{1,5})", self.uri)
        if not found or not 0 < int(found[2]) < 1 << 16:
            text = f"uri: {self.uri!r} is not tcp://ADDRESS:PORT, as tcp://0.0.0.0:10400 is"
            raise ValueError(text)
        return found[1].strip("[]"), int(found[2])

    def admits(self, host: str) -> bool:
        """Return whether a client of this address may connect."""
        import ipaddress

        address = ipaddress.ip_address(host.partition("%")[0])
        mapped = getattr(address, "ipv4_mapped", None)
        address = mapped or address
        if self.allow is None:
            return address.is_private or address.is_link_local or address.is_loopback
        return any(address in network for network in self._networks())

    def _networks(self) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
        import ipaddress

        networks = []
        for text in self.allow or ():
            try:
                networks.append(ipaddress.ip_network(text, strict=False))
            except ValueError:
                why = f"allow: {text!r} is no address or network, as 192.168.1.0/24 is"
                raise ValueError(why) from None
        return networks


class SatelliteConfig(_Port, frozen=True):
    """The daemon's microphone as a satellite of Home Assistant, `kwsd wyoming --satellite`."""

    uri: Text = "tcp://0.0.0.0:10700"
    """Where it listens: an address of this machine, and a port."""
    allow: Annotated[list[Text], Meta(min_length=1)] | None = None
    """Addresses and networks that may connect, and have what is said after a wake word sent to
    them; there is no default, for the protocol has no passwords."""
    name: Text | None = None
    """What Home Assistant calls it; null is `kwsd on` and the name of the machine."""
    area: Text | None = None
    """The area that Home Assistant suggests for it."""
    play: Text | None = None
    """A shell command that plays the WAV file on its standard input, such as `aplay -q -`; null
    plays nothing, and asks for no spoken answers."""
    awake_sound: Text | None = None
    """A WAV file that is played when a wake word was heard."""
    done_sound: Text | None = None
    """A WAV file that is played when the command was understood."""
    timer: Text | None = None
    """A shell command that is started for each event of a timer, with its JSON on its standard
    input."""
    stop_words: list[Text] = []
    """Words that end what is played, and the command of a timer that has finished; they wake
    nothing."""

    def __post_init__(self) -> None:
        """Raise ValueError for what cannot be."""
        super().__post_init__()
        for key in ("awake_sound", "done_sound"):
            if getattr(self, key) and not self.play:
                raise ValueError(f"{key}: nothing plays it; set play, such as play: aplay -q -")

    def admits(self, host: str) -> bool:
        """Return whether a client of this address may connect; without `allow`, none may."""
        return self.allow is not None and super().admits(host)


class WyomingConfig(_Port, frozen=True):
    """The wake service for Home Assistant and satellites, `kwsd wyoming`, where it runs."""

    uri: Text = "tcp://0.0.0.0:10400"
    """Where it listens: an address of this machine, and a port. `0.0.0.0` is every IPv4 address,
    `[::]` every one."""
    allow: list[Text] | None = None
    """Addresses and networks that may connect, such as `192.168.1.0/24`; null is those of local
    networks. The protocol has no passwords."""
    max_clients: Annotated[int, Meta(ge=1, le=1024)] = 32
    """Clients that may be connected at the same time, each with a detector of its own."""
    satellite: SatelliteConfig = SatelliteConfig()
    """The daemon's microphone as a satellite, where `kwsd wyoming --satellite` runs."""
