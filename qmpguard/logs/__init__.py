"""Where the record goes: the log, the audit, the traffic file, systemd's journal, OpenTelemetry. It holds nobody up."""
