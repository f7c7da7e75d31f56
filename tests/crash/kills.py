"""Kill -9 of a posting loop: `python -m tests.crash.kills --kills 1000 --seed 1 --folder FOLDER`."""

from evaluation.bench.ledger_kills import main

if __name__ == "__main__":
    main()
