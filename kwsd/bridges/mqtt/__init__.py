"""`kwsd mqtt`: wakes and states for an MQTT broker, and Home Assistant's discovery."""
