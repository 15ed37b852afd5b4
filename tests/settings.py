"""Settings of the tests: real servers in a scratch home, shared by every test process of one run."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

from vaulthalla import embedded

# Never the developer's own home, whichever servers are used.
if "VAULTHALLA_TEST_HOME" not in os.environ:
    scratch = Path(tempfile.mkdtemp(prefix="vaulthalla-test-"))
    # The servers do not run as root, so they must be able to pass through.
    scratch.chmod(0o711)
    os.environ.update(VAULTHALLA_TEST_HOME=str(scratch), VAULTHALLA_HOME=str(scratch / "home"))
    os.environ.setdefault("SECRET_KEY", "only-for-tests-" + "0123456789abcdef" * 4)
    os.environ.setdefault("SALT_KEY", "only-for-tests")
    servers = embedded.ensure(migrate=False)
    # Worker processes of the test runner inherit these and start nothing.
    os.environ.update(DATABASE_URL=servers.database_url, REDIS_URL=servers.redis_url)

    @atexit.register
    def _stop(owner: int = os.getpid(), home: str = str(scratch / "home")) -> None:
        if os.getpid() == owner:
            os.environ["VAULTHALLA_HOME"] = home
            embedded.down()
            shutil.rmtree(scratch, ignore_errors=True)


from vaulthalla.settings import *  # noqa: F403

PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
