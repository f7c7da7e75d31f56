"""Authentication: tokens, roles, signing keys, secret files and start-up checks of servers."""
