"""What every service stands on: settings, server, access, errors, database, bus, telemetry. Knows no service."""
