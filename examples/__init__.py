"""Examples: a file a job. This makes the folder a package, which Python finds before others."""
