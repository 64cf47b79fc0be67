"""The settings: TOML files, options and environment variables become a `Config`. Each value keeps its origin."""
