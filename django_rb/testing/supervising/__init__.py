"""What runs in the process between a LocalNodes and its servers: the standard library only."""
