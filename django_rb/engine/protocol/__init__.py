"""The protocol: commands and their keys, requests, replies. No I/O."""
