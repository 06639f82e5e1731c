"""Near copies: values kept in this process until their node reports a change."""
