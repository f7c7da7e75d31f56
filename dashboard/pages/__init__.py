"""The pages: one module per page, with the handlers of its routes."""
