"""From a request to a verdict: the gate, hidden primaries, overrides, the schema, the drift watch."""
