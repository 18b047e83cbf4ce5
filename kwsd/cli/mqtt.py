"""`kwsd mqtt`: wakes for an MQTT broker and Home Assistant."""

from __future__ import annotations

import argparse

from kwsd.cli import options
from kwsd.cli.bridge import configured, missing_library, socket_of

HELP = "publish wakes and states to an MQTT broker, for Home Assistant and others"
KEYS = (
    "host",
    "port",
    "username",
    "password_file",
    "tls",
    "ca_file",
    "certificate_file",
    "topic",
    "name",
    "discovery",
    "arbitrate_s",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `kwsd mqtt`."""
    add = parser.add_argument
    add("--host", help="the broker's name or address (default: localhost)")
    add("--port", type=options.positive, help="its port (default: 1883, with TLS 8883)")
    add("--username", metavar="NAME", help="whom the broker knows this device as")
    add("--password-file", metavar="FILE", help="file with the password and nothing else")
    add("--tls", action="store_true", default=None, help="encrypt, and check the certificate")
    add("--ca-file", metavar="FILE", help="certificates that the broker's must come from")
    add("--certificate-file", metavar="FILE", help="a certificate of this device, with its key")
    add("--topic", help="what every topic begins with (default: kwsd)")
    add("--name", help="the name of this device, such as its room (default: the machine's)")
    add(
        "--discovery",
        metavar="PREFIX",
        help="what Home Assistant's discovery begins with, or off (default: homeassistant)",
    )
    add(
        "--arbitrate",
        dest="arbitrate_s",
        type=options.duration,
        metavar="TIME",
        help="of rooms that hear one utterance only the best answers, after TIME: 300ms",
    )
    options.add_config(parser)
    options.add_socket(parser)


def run(arguments: argparse.Namespace) -> int:
    """Serve until the process is stopped. Raises ConfigError."""
    if missing := missing_library("mqtt", "aiomqtt"):
        return missing
    config = configured(arguments, "mqtt", KEYS)
    from kwsd.bridges import service
    from kwsd.bridges.mqtt.bridge import MqttBridge

    return service.run(MqttBridge(config, socket_of(arguments, config)).serve)
