"""`python -m mailstack.mailbox --config DIR`."""

from mailstack.mailbox.main import main

if __name__ == "__main__":
    main()
