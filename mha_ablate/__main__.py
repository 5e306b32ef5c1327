"""`python -m mha_ablate` is `mha-ablate`."""

from mha_ablate.cli.main import main

if __name__ == "__main__":
    main()
