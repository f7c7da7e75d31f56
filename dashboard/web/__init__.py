"""What every page needs of the web: sessions, access, forms, the template environment and settings."""
