"""Web infrastructure that all pages share: sessions, access, forms, the template environment and settings."""
