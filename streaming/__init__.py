"""From phones to the lake: wire format, recordings, the simulated fleet, windows, exactly-once ingestion."""
