"""What a control plane remembers, in a database."""
