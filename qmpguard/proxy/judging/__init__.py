"""From a request to a verdict: the gate, remembered devices, overrides, the schema, the drift watch."""
