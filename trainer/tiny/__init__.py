"""The built-in base: a real Mistral architecture of about a million parameters, made on this machine from a fixed seed and packaged text."""
