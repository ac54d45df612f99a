"""Where an adapter's knowledge comes from, as values computed from the catalogue."""
