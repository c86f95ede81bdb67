"""A local mail catcher: it stores all mail in a Maildir, and no mail leaves this machine.

`python -m project.local.mailbox PORT FOLDER [ADDRESS]`. A message is confirmed to its sender after it is stored on
disk. Mail readers can open the folder: `mutt -f .esteira/mail`.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

from aiosmtpd.handlers import Mailbox
from aiosmtpd.smtp import SMTP

LARGEST_MESSAGE = 150 * 1024**2  # e-mail encoding makes a 100 MiB file a third larger


async def serve(port: int, folder: str, address: str = "127.0.0.1") -> None:
    """Accept mail until SIGTERM or SIGINT."""
    asked_to_stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked_to_stop.set)
    # Maildir makes its subfolders only if its folder does not exist yet, but a mounted folder exists.
    for part in ("tmp", "new", "cur"):
        (Path(folder) / part).mkdir(parents=True, exist_ok=True)
    handler = Mailbox(Path(folder))

    def session() -> SMTP:
        return SMTP(handler, hostname="localhost", data_size_limit=LARGEST_MESSAGE, enable_SMTPUTF8=True)

    server = await loop.create_server(session, address, port)
    await asked_to_stop.wait()
    server.close()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), *sys.argv[2:]))
