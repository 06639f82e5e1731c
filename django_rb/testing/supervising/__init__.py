"""The process between a LocalNodes and its servers, which uses only the standard library."""
