"""What every command shares: environment stamp, terminal, options."""
