"""What happens to the ledger when programs are killed and the power goes: run by `make crash`."""
