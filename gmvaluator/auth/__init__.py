"""Authentication: tokens, roles, signing keys and files of secrets."""
