"""The application: it asks new customers whether the address is theirs."""

from __future__ import annotations

import os
import smtplib
import ssl
from email.message import EmailMessage


def ask_for_confirmation(address: str, code: str) -> None:
    """Mail the link that confirms an address; the mail server is the one that the environment names.

    Raises `smtplib.SMTPRecipientsRefused` when there is no such address.
    """
    message = EmailMessage()
    message["From"] = os.environ["MAILSTACK_USER"]
    message["To"] = address
    message["Subject"] = "Confirm your address"
    message.set_content(f"Follow this link: https://shop.test/confirm/{code}\n")
    with smtplib.SMTP(os.environ["MAILSTACK_HOST"], int(os.environ["MAILSTACK_SUBMISSION_PORT"])) as server:
        server.starttls(context=ssl.create_default_context(cafile=os.environ["MAILSTACK_CA_FILE"]))
        server.login(os.environ["MAILSTACK_USER"], os.environ["MAILSTACK_PASSWORD"])
        server.send_message(message)
