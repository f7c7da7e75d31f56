"""Release checks: software bill of materials, licences and known vulnerabilities."""
