"""The outputs of the record: log, audit, traffic file, systemd's journal, OpenTelemetry. None blocks the event loop."""
