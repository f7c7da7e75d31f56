"""The command line of the library; nothing else imports it except the programs and their tests."""
