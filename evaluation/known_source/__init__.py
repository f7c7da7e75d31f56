"""Images whose sources are known: what share of the credit finds them, and what is paid when there are none."""
